import type { Device } from '../../device/device.ts'
import { rowCount, type Tensor } from '../../device/tensor.ts'
import { rowFieldCount } from '../batch.ts'
import { OpCheck } from '../check.ts'
import { indexBlock } from '../numerics/simulate.ts'

/**
 * Prepares the indexer's queries, in place: rotation by position, the orthogonal Walsh–Hadamard
 * transform of each head, and with `quantise` rounding to FP4 per 32. Keys go through the same.
 */
export interface IndexQueryArgs {
  /** `[rows, heads, head]`, head a power of two. */
  readonly queries: Tensor
  /** f32 `[rotated ÷ 2]`. */
  readonly frequencies: Tensor
  /** `Batch.rows`. */
  readonly rows: Tensor
  readonly quantise: boolean
}

const check = new OpCheck('index-query')

export function indexQuery(device: Device, args: IndexQueryArgs): void {
  const rows = rowCount(args.rows)
  const [, heads = 0, head = 0] = args.queries.shape
  check.i32('rows', args.rows, [rows, rowFieldCount])
  check.activation('queries', args.queries, [rows, heads, head])
  check.f32('frequencies', args.frequencies, [rowCount(args.frequencies)])
  check.that(2 * rowCount(args.frequencies) <= head, 'a head is as wide as its rotation')
  check.that(
    (head & (head - 1)) === 0 && head % indexBlock === 0,
    `head ${head} is a power of two of at least ${indexBlock}`,
  )
  check.distinct([args.queries], [args.rows])
  if (rows > 0) device.run('index-query', args)
}
