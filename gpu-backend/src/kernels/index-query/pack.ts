import type { PackOp } from '../native/words.ts'
import type { IndexQueryArgs } from './index-query.ts'

export const packIndexQuery: PackOp<IndexQueryArgs> = (words, args) => {
  words.tensor(args.queries)
  words.tensor(args.frequencies)
  words.tensor(args.rows)
  words.flag(args.quantise)
}
