import type { PackOp } from '../native/words.ts'
import type { CopyArgs } from './copy.ts'

export const packCopy: PackOp<CopyArgs> = (words, { from, to }) => {
  words.tensor(from)
  words.tensor(to)
}
