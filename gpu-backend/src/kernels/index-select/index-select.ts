import type { Device } from '../../device/device.ts'
import { rowCount, type Tensor } from '../../device/tensor.ts'
import { pageTokens, rowFieldCount } from '../batch.ts'
import { OpCheck } from '../check.ts'

/**
 * Picks the entries a query attends to: the `topK` visible ones with the largest
 * I_j = Σ_h weight[h]·scale·max(0, query[h]·key_j), ties to the lower index; all, where no more than
 * `topK` are visible.
 */
export interface IndexSelectArgs {
  /** `[rows, heads, head]`, as `index-query` leaves them. */
  readonly queries: Tensor
  /** f32 `[rows, heads]`; may be negative. */
  readonly weights: Tensor
  readonly scale: number
  /** Index keys `[pages, 256 ÷ ratio, head]`, or u8 with the bytes of a compact row. */
  readonly entries: Tensor
  /** `Batch.rows` and `Batch.pages`. */
  readonly rows: Tensor
  readonly pages: Tensor
  readonly ratio: number
  /** Output i32 `[rows, topK]`: entry numbers in ascending order, then −1. */
  readonly selected: Tensor
}

const check = new OpCheck('index-select')

export function indexSelect(device: Device, args: IndexSelectArgs): void {
  const rows = rowCount(args.rows)
  const [, heads = 0, head = 0] = args.queries.shape
  check.i32('rows', args.rows, [rows, rowFieldCount])
  check.i32('pages', args.pages, [rowCount(args.pages), args.pages.shape[1] ?? 0])
  check.activation('queries', args.queries, [rows, heads, head])
  check.f32('weights', args.weights, [rows, heads])
  check.cachedRows('entries', args.entries, [rowCount(args.entries), pageTokens / args.ratio], {
    kind: 'index',
    width: head,
  })
  check.i32('selected', args.selected, [rows, args.selected.shape[1] ?? 0])
  check.distinct([args.selected], [args.queries, args.weights, args.entries, args.rows, args.pages])
  if (rows > 0) device.run('index-select', args)
}
