import type { LaunchOp } from '../../device/cuda/launch.ts'
import { rowCount } from '../../device/tensor.ts'
import { ArgStruct, launch } from '../cuda/args.ts'
import { productShape } from '../cuda/matrix.ts'
import type { GroupedLinearArgs } from './grouped-linear.ts'

export const launchGroupedLinear: LaunchOp<GroupedLinearArgs> = (args, target) => {
  const rows = rowCount(args.input)
  const rank = rowCount(args.weight.weight) / args.groups
  const { tokens, outputs, sharedBytes } = productShape(rows)
  const blocksOfGroup = Math.ceil(rank / outputs)
  const struct = new ArgStruct('grouped-linear', target)
    .activation(args.input)
    .matrix(args.weight)
    .activation(args.output)
    .i32(rows)
    .i32(rank)
    .i32(blocksOfGroup)
    .i32(args.groups)
  const grid = [args.groups * blocksOfGroup, Math.ceil(rows / tokens)] as const
  return [launch(`grouped_linear_${tokens}`, { grid, threads: 256, sharedBytes }, struct)]
}
