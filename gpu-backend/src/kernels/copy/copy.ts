import type { Device } from '../../device/device.ts'
import type { Tensor } from '../../device/tensor.ts'
import { OpCheck } from '../check.ts'

/** Moves bytes inside the device, both sides of one dtype and shape. */
export interface CopyArgs {
  readonly from: Tensor
  readonly to: Tensor
}

const check = new OpCheck('copy')

export function copy(device: Device, args: CopyArgs): void {
  check.tensor('to', args.to, [args.from.dtype], args.from.shape)
  check.distinct([args.to], [args.from])
  if (args.from.shape.includes(0)) return
  device.run('copy', args)
}
