import type { PackOp } from '../native/words.ts'
import type { IndexSelectArgs } from './index-select.ts'

export const packIndexSelect: PackOp<IndexSelectArgs> = (words, args) => {
  words.tensor(args.queries)
  words.tensor(args.weights)
  words.number(args.scale)
  words.tensor(args.entries)
  words.tensor(args.rows)
  words.tensor(args.pages)
  words.number(args.ratio)
  words.tensor(args.selected)
}
