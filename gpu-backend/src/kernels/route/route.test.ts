import { describe, expect, it } from 'vitest'
import { ReferenceDevice } from '../../device/reference.ts'
import { expectClose } from '../testing/expect-close.ts'
import { TestTensors } from '../testing/test-tensors.ts'
import { type ExpertChoice, route } from './route.ts'

const on = new TestTensors(new ReferenceDevice())

/** Logits are the input itself: the gate is the identity. */
function run(
  logits: readonly (readonly number[])[],
  choice: ExpertChoice,
  options: { readonly tokens?: readonly number[]; readonly scalingFactor?: number } = {},
): { experts: number[]; weights: number[] } {
  const count = logits[0]?.length ?? 0
  const identity = Array.from({ length: count * count }, (_, i) => (i % (count + 1) === 0 ? 1 : 0))
  const experts = on.empty('i32', [logits.length, 2])
  const weights = on.empty('f32', [logits.length, 2])
  route(on.device, {
    input: on.f32([logits.length, count], logits.flat()),
    tokens: on.i32([logits.length], options.tokens ?? logits.map(() => 0)),
    gate: on.bf16([count, count], identity),
    choice,
    scalingFactor: options.scalingFactor ?? 1,
    experts,
    weights,
  })
  return { experts: on.read(experts), weights: on.read(weights) }
}

const score = { low: 0.3562696, middle: 0.8325546, high: 1.4583991 }

describe('route', () => {
  it('picks the largest scores and weighs them by their share, times the factor', () => {
    const choice = { by: 'score', bias: on.filled([4], 0) } as const
    const { experts, weights } = run([[0, -2, 2, -20]], choice, { scalingFactor: 1.5 })
    expect(experts).toEqual([2, 0])
    const sum = score.high + score.middle
    expectClose(weights, [(1.5 * score.high) / sum, (1.5 * score.middle) / sum])
  })

  it('lets the bias choose, and keeps it out of the weights', () => {
    const choice = { by: 'score', bias: on.f32([4], [0, 5, 0, 0]) } as const
    const { experts, weights } = run([[0, -2, 2, -20]], choice)
    expect(experts).toEqual([1, 2])
    const sum = score.low + score.high
    expectClose(weights, [score.low / sum, score.high / sum])
  })

  it('breaks ties towards the lower expert', () => {
    const choice = { by: 'score', bias: on.filled([4], 0) } as const
    expect(run([[1, 1, 1, 1]], choice).experts).toEqual([0, 1])
  })

  it("reads a row's experts from the table by its token, and weighs them by score all the same", () => {
    const choice = { by: 'token', table: on.i32([3, 2], [0, 1, 2, 3, 3, 1]) } as const
    const logits = [
      [0, -2, 2, -20],
      [0, -2, 2, -20],
    ]
    const { experts, weights } = run(logits, choice, { tokens: [2, 0] })
    expect(experts).toEqual([3, 1, 0, 1])
    const tiny = 4.5399929e-5
    expectClose(weights, [
      tiny / (tiny + score.low),
      score.low / (tiny + score.low),
      score.middle / (score.middle + score.low),
      score.low / (score.middle + score.low),
    ])
  })
})
