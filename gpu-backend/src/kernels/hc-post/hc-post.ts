import type { Device } from '../../device/device.ts'
import type { Tensor } from '../../device/tensor.ts'
import { OpCheck } from '../check.ts'
import { type StreamUpdate, streamShape } from '../numerics/streams.ts'

/**
 * Applies a sub-layer's update to the streams: X'[b] = post[b]·y + Σ_a C[a][b]·X[a]. `hc-pre` and
 * `hc-head` do the same on their way; this op is for whoever wants to see the streams in between.
 */
export interface HcPostArgs {
  /** `[rows, streams, hidden]`, updated in place. */
  readonly streams: Tensor
  readonly update: StreamUpdate
}

const check = new OpCheck('hc-post')

export function hcPost(device: Device, args: HcPostArgs): void {
  checkStreams(check, args.streams)
  checkUpdate(check, args.streams, args.update)
  if (streamShape(args.streams).rows > 0) device.run('hc-post', args)
}

export function checkStreams(opCheck: OpCheck, streams: Tensor): void {
  const { rows, streams: count, hidden } = streamShape(streams)
  opCheck.activation('streams', streams, [rows, count, hidden])
}

export function checkUpdate(opCheck: OpCheck, streams: Tensor, update: StreamUpdate): void {
  const { rows, streams: count, hidden } = streamShape(streams)
  opCheck.activation('update output', update.output, [rows, hidden])
  opCheck.f32('update post', update.post, [rows, count])
  opCheck.f32('update mix', update.mix, [rows, count, count])
  opCheck.distinct([streams], [update.output, update.post, update.mix])
}
