import type { LaunchOp } from '../../device/cuda/launch.ts'
import { rowCount } from '../../device/tensor.ts'
import { ArgStruct, launch } from '../cuda/args.ts'
import type { QueryRotateArgs } from './query-rotate.ts'

const headsOfBlock = 8

export const launchQueryRotate: LaunchOp<QueryRotateArgs> = (args, target) => {
  const [rows = 0, heads = 0, head = 0] = args.queries.shape
  const pairs = rowCount(args.frequencies)
  const struct = new ArgStruct('query-rotate', target)
    .activation(args.queries)
    .tensor(args.frequencies)
    .tensor(args.rows)
    .i32(heads)
    .i32(head)
    .i32(pairs)
    .f32(args.eps)
  const grid = [rows, Math.ceil(heads / headsOfBlock)] as const
  return [launch('query_rotate', { grid, threads: 256, sharedBytes: 8 * pairs }, struct)]
}
