import type { PackOp } from '../native/words.ts'
import type { GatherArgs } from './gather.ts'

export const packGather: PackOp<GatherArgs> = (words, { parts }) => {
  words.number(parts.length)
  for (const { from, to } of parts) {
    words.tensor(from)
    words.tensor(to)
  }
}
