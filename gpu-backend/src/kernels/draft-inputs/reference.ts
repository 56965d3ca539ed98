import { rmsNorm } from '../numerics/rms-norm.ts'
import type { ReferenceKernel } from '../reference-memory.ts'
import type { DraftInputsArgs } from './draft-inputs.ts'

export const draftInputsReference: ReferenceKernel<DraftInputsArgs> = (memory, args) => {
  const [, count = 0, hidden = 0] = args.source.shape
  const tokens = memory.i32(args.tokens)
  const table = memory.matrix({ weight: args.table, scale: null })
  const source = memory.f32(args.source)
  const embeddingNorm = memory.values(args.embeddingNorm)
  const streamNorm = memory.values(args.streamNorm)
  const embedding = memory.f32(args.embedding)
  const streams = memory.f32(args.streams)
  for (const [row, pick] of memory.i32(args.picks).entries()) {
    const at = table.load(tokens[row] ?? 0, 1)
    embedding.set(table.values.subarray(at, at + hidden), row * hidden)
    rmsNorm(embedding, { at: row * hidden, length: hidden }, embeddingNorm, args.eps)
    const from = pick * count * hidden
    streams.set(source.subarray(from, from + count * hidden), row * count * hidden)
    for (let stream = row * count; stream < (row + 1) * count; stream++) {
      rmsNorm(streams, { at: stream * hidden, length: hidden }, streamNorm, args.eps)
    }
  }
}
