import type { ReferenceKernel } from '../reference-memory.ts'
import type { GatherArgs } from './gather.ts'

export const gatherReference: ReferenceKernel<GatherArgs> = (memory, { parts }) => {
  for (const { from, to } of parts) memory.u8(to).set(memory.u8(from))
}
