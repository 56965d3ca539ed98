import type { Device } from '../../device/device.ts'
import type { Tensor } from '../../device/tensor.ts'
import { OpCheck } from '../check.ts'
import { checkStreams, checkUpdate } from '../hc-post/hc-post.ts'
import { type StreamUpdate, streamShape } from '../numerics/streams.ts'

/**
 * Enters a sub-layer. First the previous sub-layer's update, if one is pending, goes into the
 * streams; then q = fn·z / rms(z) gives the stream weights pre, post and C, and the sub-layer's
 * input is rmsnorm(Σ_a pre[a]·X[a]).
 */
export interface HcPreArgs {
  /** `[rows, streams, hidden]`; updated in place when `pending` is there. */
  readonly streams: Tensor
  readonly pending: StreamUpdate | null
  /** f32 `[(2 + streams)·streams, streams·hidden]`. */
  readonly fn: Tensor
  /** f32 `[3]`: of pre, post and C. */
  readonly scale: Tensor
  /** f32 `[(2 + streams)·streams]`. */
  readonly base: Tensor
  /** The sub-layer's norm weight `[hidden]`. */
  readonly norm: Tensor
  readonly sinkhornIterations: number
  readonly hcEps: number
  readonly normEps: number
  /** Output `[rows, hidden]`. */
  readonly normed: Tensor
  /** Outputs f32 `[rows, streams]` and `[rows, streams, streams]`, for the update that follows. */
  readonly post: Tensor
  readonly mix: Tensor
}

const check = new OpCheck('hc-pre')

export function hcPre(device: Device, args: HcPreArgs): void {
  const { rows, streams: count, hidden } = streamShape(args.streams)
  const width = (2 + count) * count
  checkStreams(check, args.streams)
  if (args.pending !== null) checkUpdate(check, args.streams, args.pending)
  check.f32('fn', args.fn, [width, count * hidden])
  check.f32('scale', args.scale, [3])
  check.f32('base', args.base, [width])
  check.tensor('norm', args.norm, ['bf16', 'f32'], [hidden])
  check.activation('normed', args.normed, [rows, hidden])
  check.f32('post', args.post, [rows, count])
  check.f32('mix', args.mix, [rows, count, count])
  const pending = args.pending === null ? [] : Object.values<Tensor>({ ...args.pending })
  check.distinct([args.normed, args.post, args.mix], [args.streams, ...pending])
  check.that(args.sinkhornIterations >= 1, 'there is at least one Sinkhorn iteration')
  if (rows > 0) device.run('hc-pre', args)
}
