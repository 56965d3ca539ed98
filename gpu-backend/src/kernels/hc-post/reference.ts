import { updateStreams } from '../numerics/streams.ts'
import type { ReferenceKernel } from '../reference-memory.ts'
import type { HcPostArgs } from './hc-post.ts'

export const hcPostReference: ReferenceKernel<HcPostArgs> = (memory, { streams, update }) => {
  updateStreams(memory, streams, update)
}
