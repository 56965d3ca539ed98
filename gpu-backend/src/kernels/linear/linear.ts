import type { Device } from '../../device/device.ts'
import { type LinearWeight, rowCount, type Tensor } from '../../device/tensor.ts'
import { OpCheck } from '../check.ts'
import { activationBlock } from '../numerics/simulate.ts'

export interface LinearPart {
  /** `[out, in]`. */
  readonly weight: LinearWeight
  /** `[rows, out]`. */
  readonly output: Tensor
}

/**
 * output = input · weightᵀ for several weights that read the same input: one launch, one pass over
 * the input, however many projections a layer makes of it.
 */
export interface LinearArgs {
  /** `[rows, in]`. */
  readonly input: Tensor
  /** Round the input to FP8 per 128 where the weight is FP8 or FP4; bf16 and f32 weights never. */
  readonly quantise: boolean
  readonly parts: readonly LinearPart[]
}

const check = new OpCheck('linear')

export function linear(device: Device, args: LinearArgs): void {
  const rows = rowCount(args.input)
  const width = args.input.shape[1] ?? 0
  check.activation('input', args.input, [rows, width])
  for (const [index, { weight, output }] of args.parts.entries()) {
    check.linear(`weight ${index}`, weight, [rowCount(weight.weight), width])
    check.activation(`output ${index}`, output, [rows, rowCount(weight.weight)])
  }
  check.distinct(
    args.parts.map((part) => part.output),
    [args.input],
  )
  check.that(
    !args.quantise || width % activationBlock === 0 || !args.parts.some(readsFp8),
    `an input of ${width} divides into blocks of ${activationBlock}`,
  )
  if (rows > 0 && args.parts.length > 0) device.run('linear', args)
}

/** Whether this weight was trained against FP8 inputs. */
export function readsFp8({ weight }: { readonly weight: LinearWeight }): boolean {
  return weight.weight.dtype === 'f8e4m3' || weight.weight.dtype === 'fp4'
}
