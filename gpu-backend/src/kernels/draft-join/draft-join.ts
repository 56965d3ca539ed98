import type { Device } from '../../device/device.ts'
import type { Tensor } from '../../device/tensor.ts'
import { OpCheck } from '../check.ts'

/** Adds a row's projected embedding to each of its projected streams, in place. */
export interface DraftJoinArgs {
  /** `[rows, hidden]`. */
  readonly embedding: Tensor
  /** `[rows, streams, hidden]`. */
  readonly streams: Tensor
}

const check = new OpCheck('draft-join')

export function draftJoin(device: Device, args: DraftJoinArgs): void {
  const [rows = 0, count = 0, hidden = 0] = args.streams.shape
  check.activation('streams', args.streams, [rows, count, hidden])
  check.activation('embedding', args.embedding, [rows, hidden])
  check.distinct([args.streams], [args.embedding])
  if (rows > 0) device.run('draft-join', args)
}
