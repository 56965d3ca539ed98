import type { PackOp } from '../native/words.ts'
import type { DraftInputsArgs } from './draft-inputs.ts'

export const packDraftInputs: PackOp<DraftInputsArgs> = (words, args) => {
  words.tensor(args.tokens)
  words.tensor(args.table)
  words.tensor(args.source)
  words.tensor(args.picks)
  words.tensor(args.embeddingNorm)
  words.tensor(args.streamNorm)
  words.number(args.eps)
  words.tensor(args.embedding)
  words.tensor(args.streams)
}
