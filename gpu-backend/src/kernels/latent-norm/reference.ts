import { rowCount } from '../../device/tensor.ts'
import { batchRow } from '../batch.ts'
import { rmsNorm } from '../numerics/rms-norm.ts'
import { rotate } from '../numerics/rotate.ts'
import { keyBlock, simulateFp8 } from '../numerics/simulate.ts'
import type { ReferenceKernel } from '../reference-memory.ts'
import type { LatentNormArgs } from './latent-norm.ts'

export const latentNormReference: ReferenceKernel<LatentNormArgs> = (memory, args) => {
  const rows = memory.i32(args.rows)
  const frequencies = memory.f32(args.frequencies)
  const latents = memory.f32(args.queryLatent)
  const keys = memory.f32(args.keys)
  const queryNorm = memory.values(args.queryNorm)
  const keyNorm = memory.values(args.keyNorm)
  const rank = queryNorm.length
  const head = keyNorm.length
  const plain = head - 2 * frequencies.length
  for (let row = 0; row < rowCount(args.rows); row++) {
    rmsNorm(latents, { at: row * rank, length: rank }, queryNorm, args.eps)
    const at = row * head
    rmsNorm(keys, { at, length: head }, keyNorm, args.eps)
    rotate(keys, at + plain, frequencies, batchRow(rows, row).position)
    if (args.quantise) simulateFp8(keys, { at, length: plain }, keyBlock)
  }
}
