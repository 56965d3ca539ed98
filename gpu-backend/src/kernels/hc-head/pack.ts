import { packPending } from '../hc-post/pack.ts'
import type { PackOp } from '../native/words.ts'
import type { HcHeadArgs } from './hc-head.ts'

export const packHcHead: PackOp<HcHeadArgs> = (words, args) => {
  words.tensor(args.streams)
  packPending(words, args.pending)
  words.tensor(args.picks)
  words.tensor(args.fn)
  words.tensor(args.scale)
  words.tensor(args.base)
  words.tensor(args.norm)
  words.number(args.hcEps)
  words.number(args.normEps)
  words.tensor(args.output)
}
