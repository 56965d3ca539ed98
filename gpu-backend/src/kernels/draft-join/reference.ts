import type { ReferenceKernel } from '../reference-memory.ts'
import type { DraftJoinArgs } from './draft-join.ts'

export const draftJoinReference: ReferenceKernel<DraftJoinArgs> = (memory, args) => {
  const [, count = 0, hidden = 0] = args.streams.shape
  const embedding = memory.f32(args.embedding)
  const streams = memory.f32(args.streams)
  for (let i = 0; i < streams.length; i++) {
    const row = Math.floor(i / (count * hidden))
    streams[i] = (streams[i] ?? 0) + (embedding[row * hidden + (i % hidden)] ?? 0)
  }
}
