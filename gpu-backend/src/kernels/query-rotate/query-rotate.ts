import type { Device } from '../../device/device.ts'
import { rowCount, type Tensor } from '../../device/tensor.ts'
import { rowFieldCount } from '../batch.ts'
import { OpCheck } from '../check.ts'

/** Each head of a query is divided by its own rms, without a weight, and rotated. In place. */
export interface QueryRotateArgs {
  /** `[rows, heads, head]`. */
  readonly queries: Tensor
  /** f32 `[rotated ÷ 2]`; the last `rotated` elements of a head turn. */
  readonly frequencies: Tensor
  /** `Batch.rows`. */
  readonly rows: Tensor
  readonly eps: number
}

const check = new OpCheck('query-rotate')

export function queryRotate(device: Device, args: QueryRotateArgs): void {
  const rows = rowCount(args.rows)
  const [, heads = 0, head = 0] = args.queries.shape
  check.i32('rows', args.rows, [rows, rowFieldCount])
  check.activation('queries', args.queries, [rows, heads, head])
  check.f32('frequencies', args.frequencies, [rowCount(args.frequencies)])
  check.that(2 * rowCount(args.frequencies) <= head, 'a head is as wide as its rotation')
  check.distinct([args.queries], [args.rows])
  if (rows > 0) device.run('query-rotate', args)
}
