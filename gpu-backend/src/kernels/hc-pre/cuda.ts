import type { LaunchOp } from '../../device/cuda/launch.ts'
import { ArgStruct, launch } from '../cuda/args.ts'
import { columnBlocks, streamSharedBytes, streamsArg, updateArg } from '../cuda/streams.ts'
import { streamShape } from '../numerics/streams.ts'
import type { HcPreArgs } from './hc-pre.ts'

export const launchHcPre: LaunchOp<HcPreArgs> = (args, target) => {
  const { rows, streams: count } = streamShape(args.streams)
  const blocks = columnBlocks(args.streams)
  const sums = (2 + count) * count + 1
  const struct = new ArgStruct('hc-pre', target)
  streamsArg(struct, args.streams)
  updateArg(struct, args.pending)
  struct
    .tensor(args.fn)
    .tensor(args.scale)
    .tensor(args.base)
    .values(args.norm)
    .activation(args.normed)
    .tensor(args.post)
    .tensor(args.mix)
    .pointer(target.scratch('parts', 4 * rows * blocks * sums))
    .pointer(target.counters(rows))
    .i32(args.sinkhornIterations)
    .f32(args.hcEps)
    .f32(args.normEps)
  const sharedBytes = streamSharedBytes(args.streams)
  return [launch('hc_pre', { grid: [blocks, rows], threads: 256, sharedBytes }, struct)]
}
