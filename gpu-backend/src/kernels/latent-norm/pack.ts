import type { PackOp } from '../native/words.ts'
import type { LatentNormArgs } from './latent-norm.ts'

export const packLatentNorm: PackOp<LatentNormArgs> = (words, args) => {
  words.tensor(args.queryLatent)
  words.tensor(args.queryNorm)
  words.tensor(args.keys)
  words.tensor(args.keyNorm)
  words.tensor(args.frequencies)
  words.tensor(args.rows)
  words.flag(args.quantise)
  words.number(args.eps)
}
