import type { Device } from '../../device/device.ts'
import { type Tensor, tensorBytes } from '../../device/tensor.ts'
import type { OpName, OpTable } from '../registry.ts'
import { decodeValues, encodeValues } from './encoding.ts'
import { PassingDevice } from './passing-device.ts'

/**
 * A device of fp32 made to look like one that keeps activations and caches in bfloat16: each op sees
 * widened copies, and what it changed in them is rounded back. It shows, before there is such a
 * device, that cases and bounds are right for its formats.
 */
export class Bfloat16Device extends PassingDevice {
  constructor(inner: Device) {
    super(inner, { ...inner.formats, activations: 'bf16', keys: 'bf16', indexKeys: 'bf16' })
  }

  override run<Op extends OpName>(op: Op, args: OpTable[Op]): void {
    // A copy moves bits, whatever they stand for.
    if (op === 'copy' || op === 'gather') return this.inner.run(op, args)
    const widened: Widened[] = []
    try {
      this.inner.run(op, this.#widen(args, widened))
      for (const copy of widened) this.#narrow(copy)
    } finally {
      for (const { wide } of widened) this.inner.free(wide.buffer)
    }
  }

  /** The same arguments with every bf16 tensor replaced by a wide copy, noted in `widened`. */
  #widen<T>(value: T, widened: Widened[]): T {
    if (typeof value !== 'object' || value === null) return value
    const copy: unknown = isTensor(value)
      ? this.#wideCopy(value, widened)
      : Array.isArray(value)
        ? value.map((part) => this.#widen<unknown>(part, widened))
        : Object.fromEntries(
            Object.entries(value).map(([name, part]) => [
              name,
              this.#widen<unknown>(part, widened),
            ]),
          )
    // The same members, only where and how values lie differs.
    return copy as T
  }

  #wideCopy(tensor: Tensor, widened: Widened[]): Tensor {
    if (tensor.dtype !== 'bf16') return tensor
    const before = encodeValues('f32', decodeValues('bf16', this.#bytes(tensor)))
    const buffer = this.inner.alloc(Math.max(1, before.length), 'wide copy')
    this.inner.write(buffer, 0, before)
    const wide: Tensor = { buffer, byteOffset: 0, dtype: 'f32', shape: tensor.shape }
    widened.push({ tensor, wide, before })
    return wide
  }

  /** Rounds back what changed, and only that: the bits of a NaN would not survive the way. */
  #narrow({ tensor, wide, before }: Widened): void {
    const after = this.#bytes(wide)
    const words = [before, after].map((bytes) => new Uint32Array(bytes.buffer))
    const codes = encodeValues('bf16', decodeValues('f32', after))
    for (let i = 0; i < codes.length / 2; i++) {
      if (words[0]?.[i] === words[1]?.[i]) continue
      const at = tensor.byteOffset + 2 * i
      this.inner.write(tensor.buffer, at, codes.subarray(2 * i, 2 * i + 2))
    }
  }

  #bytes(tensor: Tensor): Uint8Array {
    const bytes = new Uint8Array(tensorBytes(tensor))
    if (bytes.length > 0) this.inner.read(tensor.buffer, tensor.byteOffset, bytes)
    return bytes
  }
}

interface Widened {
  readonly tensor: Tensor
  readonly wide: Tensor
  readonly before: Uint8Array
}

function isTensor(value: object): value is Tensor {
  return 'buffer' in value && 'byteOffset' in value && 'dtype' in value
}
