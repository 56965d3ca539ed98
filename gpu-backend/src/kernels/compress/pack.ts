import type { PackOp } from '../native/words.ts'
import type { CompressArgs } from './compress.ts'

export const packCompress: PackOp<CompressArgs> = (words, args) => {
  words.tensor(args.values)
  words.tensor(args.scores)
  words.tensor(args.ape)
  words.tensor(args.norm)
  words.tensor(args.frequencies)
  words.tensor(args.rows)
  words.tensor(args.pages)
  words.tensor(args.valueRing)
  words.tensor(args.scoreRing)
  words.tensor(args.entries)
  words.number(args.ratio)
  words.number(args.span)
  words.flag(args.use === 'index')
  words.flag(args.quantise)
  words.number(args.eps)
}
