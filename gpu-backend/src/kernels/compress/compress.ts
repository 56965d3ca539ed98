import type { Device } from '../../device/device.ts'
import { rowCount, type Tensor } from '../../device/tensor.ts'
import { pageTokens, rowFieldCount } from '../batch.ts'
import { OpCheck } from '../check.ts'
import { type CompactLayout, keyLayout } from '../numerics/compact-rows.ts'
import { indexBlock, keyBlock } from '../numerics/simulate.ts'

/**
 * Pools blocks of `ratio` tokens into cache entries and keeps the rows a later block will need.
 *
 * For every row that completes a block, entry j = Σ softmax(score + ape)·value, channel by channel,
 * over the block's rows; with `span` 2 also over the previous block's, whose first `width` channels
 * are read where the block itself uses the second. The entry is normed, rotated by the position of
 * its block's first token, and stored. Reads the rings as they stood before the step; leaves in
 * them each segment's last rows.
 */
export interface CompressArgs {
  /** f32 `[rows, span·width]`: raw values and scores, ape not yet added. */
  readonly values: Tensor
  readonly scores: Tensor
  /** f32 `[ratio, span·width]`, by position modulo ratio. */
  readonly ape: Tensor
  /** `[width]`. */
  readonly norm: Tensor
  /** f32 `[rotated ÷ 2]`. */
  readonly frequencies: Tensor
  /** `Batch.rows` and `Batch.pages`. */
  readonly rows: Tensor
  readonly pages: Tensor
  /** f32 `[slots, ring, span·width]`: earlier rows by absolute position modulo ring. */
  readonly valueRing: Tensor
  readonly scoreRing: Tensor
  /** `[pages, 256 ÷ ratio, width]`, or u8 with the bytes of a compact row. */
  readonly entries: Tensor
  readonly ratio: number
  readonly span: number
  /** `keys`: FP8 per 64 outside the rotation. `index`: Walsh–Hadamard, then FP4 per 32. */
  readonly use: 'keys' | 'index'
  readonly quantise: boolean
  readonly eps: number
}

const check = new OpCheck('compress')

export function compress(device: Device, args: CompressArgs): void {
  const rows = rowCount(args.rows)
  const width = rowCount(args.norm)
  const channels = args.span * width
  const [slots = 0, ring = 0] = args.valueRing.shape
  check.i32('rows', args.rows, [rows, rowFieldCount])
  check.i32('pages', args.pages, [slots, args.pages.shape[1] ?? 0])
  check.f32('values', args.values, [rows, channels])
  check.f32('scores', args.scores, [rows, channels])
  check.f32('ape', args.ape, [args.ratio, channels])
  check.tensor('norm', args.norm, ['bf16', 'f32'], [width])
  check.f32('frequencies', args.frequencies, [rowCount(args.frequencies)])
  check.f32('valueRing', args.valueRing, [slots, ring, channels])
  check.f32('scoreRing', args.scoreRing, [slots, ring, channels])
  const extents = [rowCount(args.entries), pageTokens / args.ratio]
  check.cachedRows('entries', args.entries, extents, entryLayout(args))
  check.that(
    args.quantise || args.entries.dtype !== 'u8',
    'compact entries hold values that are rounded',
  )
  check.that(
    ring >= args.span * args.ratio,
    `a ring of ${ring} rows holds the ${args.span * args.ratio} of one entry`,
  )
  checkWidth(args, width)
  check.distinct(
    [args.valueRing, args.scoreRing, args.entries],
    [args.values, args.scores, args.rows, args.pages],
  )
  if (rows > 0) device.run('compress', args)
}

/** How an entry lies in a compact row. */
export function entryLayout({ use, norm, frequencies }: CompressArgs): CompactLayout {
  const width = rowCount(norm)
  return use === 'index' ? { kind: 'index', width } : keyLayout(width, 2 * rowCount(frequencies))
}

function checkWidth(args: CompressArgs, width: number): void {
  const plain = width - 2 * rowCount(args.frequencies)
  if (args.use === 'keys') {
    check.that(
      plain >= 0 && plain % keyBlock === 0,
      `${plain} unrotated elements divide into blocks of ${keyBlock}`,
    )
  } else {
    check.that(
      plain >= 0 && (width & (width - 1)) === 0 && width % indexBlock === 0,
      `an index key of ${width} is a power of two of at least ${indexBlock}`,
    )
  }
}
