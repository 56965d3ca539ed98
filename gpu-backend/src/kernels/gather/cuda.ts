import type { LaunchOp } from '../../device/cuda/launch.ts'
import { tensorBytes } from '../../device/tensor.ts'
import { ArgStruct, launch } from '../cuda/args.ts'
import type { GatherArgs } from './gather.ts'

/** Of `gather.cu`. */
const partsMax = 48
const partBytes = 24

/** 16 bytes a thread for the largest part, until there are two blocks for each multiprocessor. */
export const launchGather: LaunchOp<GatherArgs> = ({ parts }, target) =>
  Array.from({ length: Math.ceil(parts.length / partsMax) }, (_, i) => {
    const some = parts.slice(i * partsMax, (i + 1) * partsMax)
    const struct = new ArgStruct('gather', target)
    for (const { from, to } of some) struct.tensor(from).tensor(to).i64(tensorBytes(from))
    struct.skip(partBytes * (partsMax - some.length))
    const largest = Math.max(...some.map(({ from }) => tensorBytes(from)))
    const blocks = Math.min(Math.ceil(largest / (16 * 256)), 2 * target.gpu.multiprocessors)
    return launch('gather_bytes', { grid: [blocks, some.length], threads: 256 }, struct)
  })
