import type { PackOp } from '../native/words.ts'
import type { LinearArgs } from './linear.ts'

export const packLinear: PackOp<LinearArgs> = (words, { input, quantise, parts }) => {
  words.tensor(input)
  words.flag(quantise)
  words.number(parts.length)
  for (const { weight, output } of parts) {
    words.weight(weight)
    words.tensor(output)
  }
}
