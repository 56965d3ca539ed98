import type { Device } from '../../device/device.ts'
import { rowCount, type Tensor } from '../../device/tensor.ts'
import { pageTokens, rowFieldCount } from '../batch.ts'
import { OpCheck } from '../check.ts'
import { keyLayout } from '../numerics/compact-rows.ts'

/** The compressed side of a layer's attention. */
export interface CompressedKeys {
  /** `[pages, 256 ÷ ratio, head]`, or u8 with a row's bytes, as the window. */
  readonly entries: Tensor
  readonly ratio: number
  /** i32 `[rows, topK]` with −1 where there is none; null: every visible entry. */
  readonly selected: Tensor | null
}

/**
 * One softmax over a row's window and its compressed entries, the keys being the values, with a
 * per-head sink that takes part in the sum but carries no value:
 * o = Σ e^(s_j − M)·K_j / (Σ e^(s_j − M) + e^(sink − M)), s_j = q·K_j·scale, M = max s_j.
 * The output's rotated elements are turned back by the query's position. Reads the window as it
 * stood before the step, then leaves in it each segment's last keys.
 */
export interface AttentionArgs {
  /** `[rows, heads, head]`, as `query-rotate` leaves them. */
  readonly queries: Tensor
  /** The step's own keys `[rows, head]`, as `latent-norm` leaves them. */
  readonly keys: Tensor
  /**
   * `[slots, ring, head]`: earlier keys by absolute position modulo ring. Or u8 `[slots, ring, bytes
   * a row]` of compact rows; the step's own keys then count as what is left of them in one.
   */
  readonly window: Tensor
  /** Keys at most this many positions back, the row's own included. */
  readonly windowSize: number
  readonly compressed: CompressedKeys | null
  /** f32 `[heads]`. */
  readonly sink: Tensor
  /** f32 `[rotated ÷ 2]`. */
  readonly frequencies: Tensor
  /** `Batch.rows` and `Batch.pages`. */
  readonly rows: Tensor
  readonly pages: Tensor
  readonly scale: number
  /** Output `[rows, heads, head]`. */
  readonly output: Tensor
}

const check = new OpCheck('attention')

export function attention(device: Device, args: AttentionArgs): void {
  const rows = rowCount(args.rows)
  const [, heads = 0, head = 0] = args.queries.shape
  const [slots = 0, ring = 0] = args.window.shape
  const layout = keyLayout(head, 2 * rowCount(args.frequencies))
  check.i32('rows', args.rows, [rows, rowFieldCount])
  check.i32('pages', args.pages, [slots, args.pages.shape[1] ?? 0])
  check.activation('queries', args.queries, [rows, heads, head])
  check.activation('keys', args.keys, [rows, head])
  check.cachedRows('window', args.window, [slots, ring], layout)
  check.f32('sink', args.sink, [heads])
  check.f32('frequencies', args.frequencies, [rowCount(args.frequencies)])
  check.activation('output', args.output, [rows, heads, head])
  check.that(
    ring >= args.windowSize - 1,
    `a ring of ${ring} holds the ${args.windowSize - 1} keys before a row`,
  )
  const inputs = [args.queries, args.keys, args.rows, args.pages]
  if (args.compressed !== null) {
    const { entries, ratio, selected } = args.compressed
    check.cachedRows('entries', entries, [rowCount(entries), pageTokens / ratio], layout)
    check.that(entries.dtype === args.window.dtype, 'window and entries are kept alike')
    if (selected !== null) check.i32('selected', selected, [rows, selected.shape[1] ?? 0])
    inputs.push(entries, ...(selected === null ? [] : [selected]))
  }
  check.distinct([args.output, args.window], inputs)
  if (rows > 0) device.run('attention', args)
}
