import type { PackOp } from '../native/words.ts'
import type { ExpertSumArgs } from './expert-sum.ts'

export const packExpertSum: PackOp<ExpertSumArgs> = (words, args) => {
  words.tensor(args.experts)
  words.number(args.results.length)
  for (const results of args.results) words.tensor(results)
  words.number(args.expertsEach)
  words.number(args.firstRow)
  words.tensor(args.output)
}
