import type { Device } from '../../device/device.ts'
import { rowCount, type Tensor } from '../../device/tensor.ts'
import { OpCheck } from '../check.ts'
import { checkStreams, checkUpdate } from '../hc-post/hc-post.ts'
import { type StreamUpdate, streamShape } from '../numerics/streams.ts'

/**
 * Leaves the layers: the pending update goes into all streams, then the rows asked for are
 * contracted with w[a] = σ(q[a]·scale + base[a]) + hcEps and normed for the head.
 */
export interface HcHeadArgs {
  /** `[rows, streams, hidden]`, updated in place when `pending` is there. */
  readonly streams: Tensor
  readonly pending: StreamUpdate | null
  /** i32 `[picked]`: the rows of `streams` wanted, in output order. */
  readonly picks: Tensor
  /** f32 `[streams, streams·hidden]`, `[1]`, `[streams]`. */
  readonly fn: Tensor
  readonly scale: Tensor
  readonly base: Tensor
  /** The final norm's weight `[hidden]`. */
  readonly norm: Tensor
  readonly hcEps: number
  readonly normEps: number
  /** Output `[picked, hidden]`. */
  readonly output: Tensor
}

const check = new OpCheck('hc-head')

export function hcHead(device: Device, args: HcHeadArgs): void {
  const { rows, streams: count, hidden } = streamShape(args.streams)
  const picked = rowCount(args.picks)
  checkStreams(check, args.streams)
  if (args.pending !== null) checkUpdate(check, args.streams, args.pending)
  check.i32('picks', args.picks, [picked])
  check.f32('fn', args.fn, [count, count * hidden])
  check.f32('scale', args.scale, [1])
  check.f32('base', args.base, [count])
  check.tensor('norm', args.norm, ['bf16', 'f32'], [hidden])
  check.activation('output', args.output, [picked, hidden])
  check.distinct([args.output], [args.streams, args.picks])
  if (rows > 0) device.run('hc-head', args)
}
