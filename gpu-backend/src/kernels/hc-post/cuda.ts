import type { Launch, LaunchOp, LaunchTarget } from '../../device/cuda/launch.ts'
import type { Tensor } from '../../device/tensor.ts'
import { ArgStruct, launch } from '../cuda/args.ts'
import { columnBlocks, streamsArg, updateArg } from '../cuda/streams.ts'
import { type StreamUpdate, streamShape } from '../numerics/streams.ts'
import type { HcPostArgs } from './hc-post.ts'

export const launchHcPost: LaunchOp<HcPostArgs> = ({ streams, update }, target) => [
  launchUpdate(streams, update, target),
]

/** The update alone, of every row. */
export function launchUpdate(streams: Tensor, update: StreamUpdate, target: LaunchTarget): Launch {
  const struct = new ArgStruct('hc-post', target)
  streamsArg(struct, streams)
  updateArg(struct, update)
  const grid = [streamShape(streams).rows, columnBlocks(streams)] as const
  return launch('hc_post', { grid, threads: 256 }, struct)
}
