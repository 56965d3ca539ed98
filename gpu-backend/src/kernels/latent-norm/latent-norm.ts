import type { Device } from '../../device/device.ts'
import { rowCount, type Tensor } from '../../device/tensor.ts'
import { rowFieldCount } from '../batch.ts'
import { OpCheck } from '../check.ts'
import { keyBlock } from '../numerics/simulate.ts'

/**
 * Finishes the two narrow projections of a layer's input, in place: the query latent is normed; the
 * key, which is also the value, is normed, rotated in its last elements by its position and, with
 * `quantise`, rounded to FP8 per 64 in the others.
 */
export interface LatentNormArgs {
  /** `[rows, query rank]`. */
  readonly queryLatent: Tensor
  /** `[query rank]`. */
  readonly queryNorm: Tensor
  /** `[rows, head]`. */
  readonly keys: Tensor
  /** `[head]`. */
  readonly keyNorm: Tensor
  /** f32 `[rotated ÷ 2]`. */
  readonly frequencies: Tensor
  /** `Batch.rows`. */
  readonly rows: Tensor
  readonly quantise: boolean
  readonly eps: number
}

const check = new OpCheck('latent-norm')

export function latentNorm(device: Device, args: LatentNormArgs): void {
  const rows = rowCount(args.rows)
  const rank = args.queryLatent.shape[1] ?? 0
  const head = args.keys.shape[1] ?? 0
  const rotated = 2 * rowCount(args.frequencies)
  check.i32('rows', args.rows, [rows, rowFieldCount])
  check.activation('queryLatent', args.queryLatent, [rows, rank])
  check.tensor('queryNorm', args.queryNorm, ['bf16', 'f32'], [rank])
  check.activation('keys', args.keys, [rows, head])
  check.tensor('keyNorm', args.keyNorm, ['bf16', 'f32'], [head])
  check.f32('frequencies', args.frequencies, [rotated / 2])
  check.that(
    rotated <= head && (head - rotated) % keyBlock === 0,
    `the ${head - rotated} unrotated elements divide into blocks of ${keyBlock}`,
  )
  check.distinct([args.queryLatent, args.keys], [args.rows])
  if (rows > 0) device.run('latent-norm', args)
}
