import { strict as assert } from 'node:assert'
import { describeTensor, type DType, type LinearWeight, type Tensor } from '../device/tensor.ts'
import { tensorBytes } from '../device/tensor.ts'
import { type CompactLayout, compactRowBytes, rowWidth } from './numerics/compact-rows.ts'
import { fp4Run, fp8Tile } from './numerics/decode.ts'

/** Formats an activation may have; a device says which one it uses. */
export const activationDtypes: readonly DType[] = ['f32', 'bf16']

/** Asserts what the tensors handed to one op look like. Messages name the op and the tensor. */
export class OpCheck {
  readonly #op: string

  constructor(op: string) {
    this.#op = op
  }

  tensor(name: string, tensor: Tensor, dtypes: readonly DType[], shape: readonly number[]): void {
    const found = tensor.shape
    let same = found.length === shape.length && dtypes.includes(tensor.dtype)
    for (let i = 0; same && i < shape.length; i++) same = found[i] === shape[i]
    if (same) return
    assert.fail(
      `${this.#op}: ${name} is ${describeTensor(tensor)}, ` +
        `not ${dtypes.join(' or ')} [${shape.join(', ')}]`,
    )
  }

  f32(name: string, tensor: Tensor, shape: readonly number[]): void {
    this.tensor(name, tensor, f32Only, shape)
  }

  i32(name: string, tensor: Tensor, shape: readonly number[]): void {
    this.tensor(name, tensor, i32Only, shape)
  }

  activation(name: string, tensor: Tensor, shape: readonly number[]): void {
    this.tensor(name, tensor, activationDtypes, shape)
  }

  /** Rows of a cache as values, or as bytes in the compact layout of their kind. */
  cachedRows(
    name: string,
    tensor: Tensor,
    extents: readonly number[],
    layout: CompactLayout,
  ): void {
    if (tensor.dtype === 'u8') {
      this.tensor(name, tensor, u8Only, [...extents, compactRowBytes(layout)])
    } else {
      this.activation(name, tensor, [...extents, rowWidth(layout)])
    }
  }

  /** A weight `[out, in]`, or `[count, out, in]` where a stack is expected, with its scales. */
  linear(name: string, { weight, scale }: LinearWeight, shape: readonly number[]): void {
    this.tensor(name, weight, weightDtypes, shape)
    const stack = shape.slice(0, -2)
    const [rows = 0, width = 0] = shape.slice(-2)
    if (weight.dtype === 'f8e4m3' || weight.dtype === 'fp4') {
      assert(scale !== null, `${this.#op}: ${name} is ${weight.dtype} and needs its scales`)
      const tiles =
        weight.dtype === 'fp4'
          ? [rows, width / fp4Run]
          : [Math.ceil(rows / fp8Tile), Math.ceil(width / fp8Tile)]
      this.tensor(`${name} scale`, scale, e8m0Only, [...stack, ...tiles])
    } else {
      assert(scale === null, `${this.#op}: ${name} is ${weight.dtype} and has no scales`)
    }
  }

  /** Outputs may not share bytes with each other or with inputs. */
  distinct(outputs: readonly Tensor[], inputs: readonly Tensor[]): void {
    for (const [index, output] of outputs.entries()) {
      for (const other of [...outputs.slice(index + 1), ...inputs]) {
        if (!overlap(output, other)) continue
        assert.fail(
          `${this.#op}: ${describeTensor(output)} at ${output.byteOffset} of buffer ` +
            `${output.buffer} shares bytes with ${describeTensor(other)} at ${other.byteOffset}`,
        )
      }
    }
  }

  that(condition: boolean, held: string): void {
    assert(condition, `${this.#op}: ${held}`)
  }
}

const f32Only: readonly DType[] = ['f32']
const i32Only: readonly DType[] = ['i32']
const u8Only: readonly DType[] = ['u8']
const e8m0Only: readonly DType[] = ['e8m0']
const weightDtypes: readonly DType[] = ['f32', 'bf16', 'f8e4m3', 'fp4']

function overlap(a: Tensor, b: Tensor): boolean {
  if (a.buffer !== b.buffer) return false
  return (
    a.byteOffset < b.byteOffset + tensorBytes(b) && b.byteOffset < a.byteOffset + tensorBytes(a)
  )
}
