import type { LaunchOp } from '../../device/cuda/launch.ts'
import { rowCount } from '../../device/tensor.ts'
import { ArgStruct } from '../cuda/args.ts'
import { rowTask } from '../cuda/row-tasks/row-tasks.ts'
import type { IndexQueryArgs } from './index-query.ts'

const headsOfBlock = 8

export const launchIndexQuery: LaunchOp<IndexQueryArgs> = (args, target) => {
  const { queries, frequencies } = args
  const [rows = 0, heads = 0, head = 0] = queries.shape
  const struct = new ArgStruct('index-query', target)
    .activation(queries)
    .tensor(frequencies)
    .tensor(args.rows)
    .i32(rows)
    .i32(heads)
    .i32(head)
    .i32(rowCount(frequencies))
    .flag(args.quantise)
  const task = {
    kind: 'index-query' as const,
    blocks: rows * Math.ceil(heads / headsOfBlock),
    sharedBytes: 4 * headsOfBlock * head,
    args: struct.bytes(),
    reads: [frequencies, args.rows],
    writes: [queries],
  }
  return [rowTask(task, target)]
}
