import type { PackOp } from '../native/words.ts'
import type { AttentionArgs } from './attention.ts'

export const packAttention: PackOp<AttentionArgs> = (words, args) => {
  words.tensor(args.queries)
  words.tensor(args.keys)
  words.tensor(args.window)
  words.number(args.windowSize)
  words.tensor(args.sink)
  words.tensor(args.frequencies)
  words.tensor(args.rows)
  words.tensor(args.pages)
  words.number(args.scale)
  words.tensor(args.output)
  words.flag(args.compressed !== null)
  if (args.compressed === null) return
  words.tensor(args.compressed.entries)
  words.number(args.compressed.ratio)
  words.optional(args.compressed.selected)
}
