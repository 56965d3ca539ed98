import type { LaunchOp } from '../../device/cuda/launch.ts'
import { rowCount } from '../../device/tensor.ts'
import { ArgStruct, launch } from '../cuda/args.ts'
import type { IndexQueryArgs } from './index-query.ts'

const headsOfBlock = 8

export const launchIndexQuery: LaunchOp<IndexQueryArgs> = (args, target) => {
  const [rows = 0, heads = 0, head = 0] = args.queries.shape
  const struct = new ArgStruct('index-query', target)
    .activation(args.queries)
    .tensor(args.frequencies)
    .tensor(args.rows)
    .i32(heads)
    .i32(head)
    .i32(rowCount(args.frequencies))
    .flag(args.quantise)
  const grid = [rows, Math.ceil(heads / headsOfBlock)] as const
  const sharedBytes = 4 * headsOfBlock * head
  return [launch('index_query', { grid, threads: 256, sharedBytes }, struct)]
}
