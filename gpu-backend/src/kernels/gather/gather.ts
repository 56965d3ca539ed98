import type { Device } from '../../device/device.ts'
import { elementCount, type Tensor } from '../../device/tensor.ts'
import { OpCheck } from '../check.ts'

/** A tensor and where its bytes go; both of one dtype and shape. */
export interface GatherPart {
  readonly from: Tensor
  readonly to: Tensor
}

/** Moves bytes from many places at once; what is read may lie on another device of the same group. */
export interface GatherArgs {
  readonly parts: readonly GatherPart[]
}

const check = new OpCheck('gather')

export function gather(device: Device, args: GatherArgs): void {
  for (const { from, to } of args.parts) check.tensor('to', to, [from.dtype], from.shape)
  check.distinct(
    args.parts.map(({ to }) => to),
    args.parts.map(({ from }) => from),
  )
  const parts = args.parts.filter(({ from }) => elementCount(from.shape) > 0)
  if (parts.length > 0) device.run('gather', { parts })
}
