import type { LaunchOp } from '../../device/cuda/launch.ts'
import { rowCount } from '../../device/tensor.ts'
import { ArgStruct } from '../cuda/args.ts'
import { rowTask } from '../cuda/row-tasks/row-tasks.ts'
import type { QueryRotateArgs } from './query-rotate.ts'

const headsOfBlock = 8

export const launchQueryRotate: LaunchOp<QueryRotateArgs> = (args, target) => {
  const { queries, frequencies } = args
  const [rows = 0, heads = 0, head = 0] = queries.shape
  const pairs = rowCount(frequencies)
  const struct = new ArgStruct('query-rotate', target)
    .activation(queries)
    .tensor(frequencies)
    .tensor(args.rows)
    .i32(rows)
    .i32(heads)
    .i32(head)
    .i32(pairs)
    .f32(args.eps)
  const task = {
    kind: 'query-rotate' as const,
    blocks: rows * Math.ceil(heads / headsOfBlock),
    sharedBytes: 8 * pairs,
    args: struct.bytes(),
    reads: [frequencies, args.rows],
    writes: [queries],
  }
  return [rowTask(task, target)]
}
