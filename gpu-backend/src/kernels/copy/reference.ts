import type { ReferenceKernel } from '../reference-memory.ts'
import type { CopyArgs } from './copy.ts'

export const copyReference: ReferenceKernel<CopyArgs> = (memory, { from, to }) => {
  memory.u8(to).set(memory.u8(from))
}
