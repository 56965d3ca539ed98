import { sigmoid } from '../numerics/sigmoid.ts'
import { sinkhorn } from '../numerics/sinkhorn.ts'
import { contractAndNorm, mixLogits, streamShape, updateStreams } from '../numerics/streams.ts'
import type { ReferenceKernel } from '../reference-memory.ts'
import type { HcPreArgs } from './hc-pre.ts'

export const hcPreReference: ReferenceKernel<HcPreArgs> = (memory, args) => {
  if (args.pending !== null) updateStreams(memory, args.streams, args.pending)
  const { rows, streams: count, hidden } = streamShape(args.streams)
  const streams = memory.f32(args.streams)
  const fn = memory.matrix({ weight: args.fn, scale: null })
  const logits = mixLogits(streams, rows, fn, args.normEps)
  const base = memory.f32(args.base)
  const scale = memory.f32(args.scale)
  const norm = memory.values(args.norm)
  const normed = memory.f32(args.normed)
  const post = memory.f32(args.post)
  const mix = memory.f32(args.mix)
  const weights = new Float64Array(count)
  const matrix = new Float64Array(count * count)
  for (let row = 0; row < rows; row++) {
    const logit = (group: number, i: number): number =>
      (logits[row * fn.rows + i] ?? 0) * (scale[group] ?? 0) + (base[i] ?? 0)
    for (let a = 0; a < count; a++) {
      weights[a] = sigmoid(logit(0, a)) + args.hcEps
      post[row * count + a] = 2 * sigmoid(logit(1, count + a))
    }
    for (let i = 0; i < matrix.length; i++) matrix[i] = logit(2, 2 * count + i)
    sinkhorn(matrix, count, args.sinkhornIterations, args.hcEps)
    mix.set(matrix, row * matrix.length)
    const source = { streams, at: row * count * hidden, weights }
    contractAndNorm(source, norm, args.normEps, normed.subarray(row * hidden, (row + 1) * hidden))
  }
}
