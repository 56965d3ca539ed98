import type { LaunchOp } from '../../device/cuda/launch.ts'
import { rowCount } from '../../device/tensor.ts'
import { ArgStruct, launch } from '../cuda/args.ts'
import type { RouteArgs } from './route.ts'

/** Of `route.cu`. */
const rowsOfBlock = 4
const expertsOfBlock = 32

export const launchRoute: LaunchOp<RouteArgs> = (args, target) => {
  const [rows = 0, hidden = 0] = args.input.shape
  const count = rowCount(args.gate)
  const { choice } = args
  const table = choice.by === 'token' ? choice.table : null
  const grid = [Math.ceil(count / expertsOfBlock), Math.ceil(rows / rowsOfBlock)] as const
  const struct = new ArgStruct('route', target)
    .activation(args.input)
    .tensor(args.tokens)
    .values(args.gate)
    .tensor(choice.by === 'score' ? choice.bias : null)
    .tensor(table)
    .tensor(args.experts)
    .tensor(args.weights)
    .pointer(target.scratch('scores', 4 * rows * count))
    .pointer(target.counters(grid[1]))
    .i32(rows)
    .i32(hidden)
    .i32(count)
    .i32(args.experts.shape[1] ?? 0)
    .i32(table === null ? 0 : rowCount(table))
    .f32(args.scalingFactor)
  return [launch('route_rows', { grid, threads: 256, sharedBytes: 16 }, struct)]
}
