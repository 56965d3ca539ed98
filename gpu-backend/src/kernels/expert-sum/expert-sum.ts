import { strict as assert } from 'node:assert'
import type { Device } from '../../device/device.ts'
import { rowCount, type Tensor } from '../../device/tensor.ts'
import { OpCheck } from '../check.ts'

/**
 * Adds up each own row's experts wherever they were worked out, in the order the row picked them, and
 * the shared expert last: the order in which `experts` adds them where all are on one device, so that
 * the sum has the same bits.
 */
export interface ExpertSumArgs {
  /** i32 `[rows, experts a token]`, from `route`. */
  readonly experts: Tensor
  /**
   * f32 `[all rows, experts a token, hidden]` of each device, in their order; the tensors may lie on
   * other devices of the group. Expert e was worked out by device ⌊e ÷ `expertsEach`⌋.
   */
  readonly results: readonly Tensor[]
  readonly expertsEach: number
  /** Where the own rows begin among all. */
  readonly firstRow: number
  /** `[rows, hidden]`: what the shared expert made of them; the sums take its place. */
  readonly output: Tensor
}

const check = new OpCheck('expert-sum')

export function expertSum(device: Device, args: ExpertSumArgs): void {
  const [rows = 0, picked = 0] = args.experts.shape
  const [, hidden = 0] = args.output.shape
  const [first] = args.results
  assert(first !== undefined, 'some device has experts')
  const allRows = rowCount(first)
  check.i32('experts', args.experts, [rows, picked])
  check.activation('output', args.output, [rows, hidden])
  for (const results of args.results) check.f32('results', results, [allRows, picked, hidden])
  check.that(
    args.firstRow >= 0 && args.firstRow + rows <= allRows && args.expertsEach >= 1,
    `rows ${args.firstRow}…${args.firstRow + rows} are among ${allRows}`,
  )
  check.distinct([args.output], [args.experts, ...args.results])
  if (rows > 0) device.run('expert-sum', args)
}
