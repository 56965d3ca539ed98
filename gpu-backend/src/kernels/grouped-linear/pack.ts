import type { PackOp } from '../native/words.ts'
import type { GroupedLinearArgs } from './grouped-linear.ts'

export const packGroupedLinear: PackOp<GroupedLinearArgs> = (words, args) => {
  words.tensor(args.input)
  words.weight(args.weight)
  words.number(args.groups)
  words.tensor(args.output)
}
