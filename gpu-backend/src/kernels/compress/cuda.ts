import type { LaunchOp } from '../../device/cuda/launch.ts'
import { rowCount } from '../../device/tensor.ts'
import { ArgStruct, launch } from '../cuda/args.ts'
import type { CompressArgs } from './compress.ts'

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
    .pointer(target.counters(1))
  if (args.use === 'index')
    struct.rowLayout(args.entries, { plain: width, rotated: 0, index: true })
  else
    struct.rowLayout(args.entries, { plain: width - 2 * pairs, rotated: 2 * pairs, index: false })
  struct.i32(rows).i32(width).i32(pairs).i32(args.ratio).i32(args.span)
  struct.flag(args.quantise).f32(args.eps)
  return [
    launch('compress_rows', { grid: [rows], threads: 256, sharedBytes: 4 * (32 + width) }, struct),
  ]
}
