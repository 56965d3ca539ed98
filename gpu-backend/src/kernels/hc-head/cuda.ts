import type { Launch, LaunchOp } from '../../device/cuda/launch.ts'
import { rowCount } from '../../device/tensor.ts'
import { ArgStruct, launch } from '../cuda/args.ts'
import { columnBlocks, streamSharedBytes, streamsArg } from '../cuda/streams.ts'
import { launchUpdate } from '../hc-post/cuda.ts'
import { streamShape } from '../numerics/streams.ts'
import type { HcHeadArgs } from './hc-head.ts'

export const launchHcHead: LaunchOp<HcHeadArgs> = (args, target) => {
  const { streams, pending } = args
  const launches: Launch[] = pending === null ? [] : [launchUpdate(streams, pending, target)]
  const picked = rowCount(args.picks)
  if (picked === 0) return launches
  const blocks = columnBlocks(streams)
  const struct = new ArgStruct('hc-head', target)
  streamsArg(struct, streams)
  struct
    .tensor(args.picks)
    .tensor(args.fn)
    .tensor(args.scale)
    .tensor(args.base)
    .values(args.norm)
    .activation(args.output)
    .pointer(target.scratch('parts', 4 * picked * blocks * (streamShape(streams).streams + 1)))
    .pointer(target.counters(picked))
    .f32(args.hcEps)
    .f32(args.normEps)
  const sharedBytes = streamSharedBytes(streams)
  launches.push(launch('hc_head', { grid: [blocks, picked], threads: 256, sharedBytes }, struct))
  return launches
}
