import type { Device } from '../../device/device.ts'
import { type LinearWeight, rowCount, type Tensor } from '../../device/tensor.ts'
import { OpCheck } from '../check.ts'

/**
 * Block-diagonal product: group g of the input meets rows `g·rank … (g+1)·rank − 1` of the weight.
 * The input is never rounded to FP8, whatever the weight's format.
 */
export interface GroupedLinearArgs {
  /** `[rows, groups·in]`. */
  readonly input: Tensor
  /** `[groups·rank, in]`. */
  readonly weight: LinearWeight
  readonly groups: number
  /** Output `[rows, groups·rank]`. */
  readonly output: Tensor
}

const check = new OpCheck('grouped-linear')

export function groupedLinear(device: Device, args: GroupedLinearArgs): void {
  const rows = rowCount(args.input)
  const [outputs = 0, width = 0] = args.weight.weight.shape
  check.that(
    args.groups > 0 && outputs % args.groups === 0,
    `${outputs} outputs divide into ${args.groups} groups`,
  )
  check.activation('input', args.input, [rows, args.groups * width])
  check.linear('weight', args.weight, [outputs, width])
  check.activation('output', args.output, [rows, outputs])
  check.distinct([args.output], [args.input])
  if (rows > 0) device.run('grouped-linear', args)
}
