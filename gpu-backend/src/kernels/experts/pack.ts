import type { PackOp, WordList } from '../native/words.ts'
import type { ExpertsArgs, ExpertWeights } from './experts.ts'

export const packExperts: PackOp<ExpertsArgs> = (words, args) => {
  words.tensor(args.input)
  words.tensor(args.experts)
  words.tensor(args.weights)
  packWeights(words, args.routed)
  packWeights(words, args.shared)
  words.number(args.limit)
  words.flag(args.quantise)
  words.tensor(args.output)
  words.flag(args.part !== undefined)
  if (args.part === undefined) return
  words.number(args.part.firstExpert)
  words.number(args.part.firstRow)
  words.tensor(args.part.results)
}

function packWeights(words: WordList, { gate, up, down }: ExpertWeights): void {
  words.weight(gate)
  words.weight(up)
  words.weight(down)
}
