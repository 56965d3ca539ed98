import type { ReferenceKernel } from '../reference-memory.ts'
import type { EmbedArgs } from './embed.ts'

export const embedReference: ReferenceKernel<EmbedArgs> = (memory, args) => {
  const tokens = memory.i32(args.tokens)
  const table = memory.matrix({ weight: args.table, scale: null })
  const streams = memory.f32(args.streams)
  const count = args.streams.shape[1] ?? 0
  const hidden = table.width
  for (const [row, token] of tokens.entries()) {
    const at = table.load(token, 1)
    const embedding = table.values.subarray(at, at + hidden)
    for (let stream = 0; stream < count; stream++) {
      streams.set(embedding, (row * count + stream) * hidden)
    }
  }
}
