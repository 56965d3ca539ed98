import type { LaunchOp } from '../../device/cuda/launch.ts'
import { rowCount } from '../../device/tensor.ts'
import { ArgStruct } from '../cuda/args.ts'
import { rowTask } from '../cuda/row-tasks/row-tasks.ts'
import type { CompressArgs } from './compress.ts'

/** Both compressors of a layer may count in one launch. */
const counterBytes = 4n

export const launchCompress: LaunchOp<CompressArgs> = (args, target) => {
  const rows = rowCount(args.rows)
  const width = rowCount(args.norm)
  const pairs = rowCount(args.frequencies)
  const struct = new ArgStruct('compress', target)
    .tensor(args.values)
    .tensor(args.scores)
    .tensor(args.ape)
    .values(args.norm)
    .tensor(args.frequencies)
    .tensor(args.rows)
    .entryPages(args.entries, args.pages)
    .ring(args.valueRing)
    .ring(args.scoreRing)
    .pointer(target.counters(2) + (args.use === 'index' ? counterBytes : 0n))
  if (args.use === 'index')
    struct.rowLayout(args.entries, { plain: width, rotated: 0, index: true })
  else
    struct.rowLayout(args.entries, { plain: width - 2 * pairs, rotated: 2 * pairs, index: false })
  struct.i32(rows).i32(width).i32(pairs).i32(args.ratio).i32(args.span)
  struct.flag(args.quantise).f32(args.eps)
  const task = {
    kind: 'compress' as const,
    blocks: rows,
    sharedBytes: 4 * (32 + width),
    args: struct.bytes(),
    reads: [args.values, args.scores, args.ape, args.norm, args.frequencies, args.rows, args.pages],
    writes: [args.valueRing, args.scoreRing, args.entries],
  }
  return [rowTask(task, target)]
}
