import type { PackOp } from '../native/words.ts'
import type { RouteArgs } from './route.ts'

export const packRoute: PackOp<RouteArgs> = (words, args) => {
  words.tensor(args.input)
  words.tensor(args.tokens)
  words.tensor(args.gate)
  words.flag(args.choice.by === 'token')
  words.tensor(args.choice.by === 'token' ? args.choice.table : args.choice.bias)
  words.number(args.scalingFactor)
  words.tensor(args.experts)
  words.tensor(args.weights)
}
