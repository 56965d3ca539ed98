import { packPending } from '../hc-post/pack.ts'
import type { PackOp } from '../native/words.ts'
import type { HcPreArgs } from './hc-pre.ts'

export const packHcPre: PackOp<HcPreArgs> = (words, args) => {
  words.tensor(args.streams)
  packPending(words, args.pending)
  words.tensor(args.fn)
  words.tensor(args.scale)
  words.tensor(args.base)
  words.tensor(args.norm)
  words.number(args.sinkhornIterations)
  words.number(args.hcEps)
  words.number(args.normEps)
  words.tensor(args.normed)
  words.tensor(args.post)
  words.tensor(args.mix)
}
