import { describe, expect, it } from 'vitest'
import {
  expectSameBits,
  mixedValues,
  type OpRun,
  runNative,
} from '../native/testing/both-devices.ts'
import { nativeForTests } from '../native/testing/native-addon.ts'
import { Random } from '../testing/random.ts'
import { route } from './route.ts'

const native = await nativeForTests()
const addon = 'addon' in native ? native.addon : null

interface Problem {
  readonly rows: number
  readonly hidden: number
  readonly experts: number
  readonly picked: number
  readonly gate: 'f32' | 'bf16'
  readonly input?: Float32Array
  readonly gateValues?: Float32Array
  readonly bias?: Float32Array
  /** Experts by token; absent: by score. */
  readonly table?: readonly number[]
  readonly tokens?: readonly number[]
}

const vocabulary = 6

function routing(problem: Problem): OpRun {
  const { rows, hidden, experts: count, picked, gate } = problem
  return (on) => {
    const random = new Random(hidden, 'gate')
    const drawn = Float32Array.from({ length: count * hidden }, () => random.normal())
    const bias = problem.bias ?? mixedValues(3, 'bias', count).map((value) => value / 8)
    const tokens = problem.tokens ?? Array.from({ length: rows }, (_, row) => row % vocabulary)
    const experts = on.empty('i32', [rows, picked])
    const weights = on.empty('f32', [rows, picked])
    route(on.device, {
      input: on.f32([rows, hidden], problem.input ?? mixedValues(1, 'input', rows * hidden)),
      tokens: on.i32([rows], tokens),
      gate: on[gate]([count, hidden], problem.gateValues ?? drawn),
      choice:
        problem.table === undefined
          ? { by: 'score', bias: on.f32([count], bias) }
          : { by: 'token', table: on.i32([vocabulary, picked], problem.table) },
      scalingFactor: 1.5,
      experts,
      weights,
    })
    return { experts: on.read(experts), weights: on.read(weights) }
  }
}

const shapes: readonly (readonly [rows: number, hidden: number, experts: number, k: number])[] = [
  [1, 64, 8, 2],
  [1, 4096, 256, 6],
  [5, 130, 37, 6],
  [19, 33, 6, 6],
  [3, 8, 1, 1],
]

const plain: Problem = { rows: 2, hidden: 8, experts: 4, picked: 2, gate: 'f32' }

describe.skipIf(addon === null)('native route', () => {
  it('chooses and weighs as the reference does, bit by bit', () => {
    if (addon === null) return
    for (const [rows, hidden, experts, picked] of shapes) {
      for (const gate of ['f32', 'bf16'] as const) {
        const problem = { rows, hidden, experts, picked, gate }
        expectSameBits(addon, routing(problem), JSON.stringify(problem))
      }
    }
  })

  it('takes a token’s experts from the table in its order, and weighs them', () => {
    if (addon === null) return
    const table = Array.from({ length: vocabulary * 3 }, (_, i) => (i * 5 + 3) % 16)
    for (const gate of ['f32', 'bf16'] as const) {
      const problem = { rows: 9, hidden: 70, experts: 16, picked: 3, gate, table }
      expectSameBits(addon, routing(problem), gate)
    }
  })

  it('gives equal scores to the lower expert, zeros of both signs being equal', () => {
    if (addon === null) return
    const hidden = 8
    const gateValues = new Float32Array(12 * hidden)
    // Experts 3, 7 and 11 score higher and alike, all others alike.
    for (const expert of [3, 7, 11]) gateValues.fill(1, expert * hidden, (expert + 1) * hidden)
    const shape = { rows: 1, hidden, experts: 12, picked: 5, gate: 'f32' } as const
    const bias = Float32Array.from({ length: 12 }, (_, i) => (i % 2 === 0 ? -0 : 0))
    const input = new Float32Array(hidden).fill(1)
    const run = routing({ ...shape, gateValues, bias, input })
    expect(runNative(addon, run)['experts']).toEqual([3, 7, 11, 0, 1])
    expectSameBits(addon, run, 'ties')
  })

  it('lets a bias choose but never weigh', () => {
    if (addon === null) return
    const gateValues = new Float32Array(4 * 8)
    const bias = Float32Array.of(0, 0, 3, 5)
    const found = runNative(addon, routing({ ...plain, gateValues, bias }))
    expect(found).toEqual({ experts: [3, 2, 3, 2], weights: [0.75, 0.75, 0.75, 0.75] })
  })

  it('gives a row the same bits alone as among others, on any number of threads', () => {
    if (addon === null) return
    const shape = { hidden: 72, experts: 24, picked: 4, gate: 'bf16' } as const
    const input = mixedValues(8, 'input', 21 * 72)
    const together = runNative(addon, routing({ ...shape, rows: 21, input }), { threads: 5 })
    expect(runNative(addon, routing({ ...shape, rows: 21, input }), { threads: 1 })).toEqual(
      together,
    )
    const own = { ...shape, rows: 1, input: input.slice(9 * 72, 10 * 72) }
    const alone = runNative(addon, routing(own))
    expect(alone['experts']).toEqual(together['experts']?.slice(36, 40))
    expect(alone['weights']).toEqual(together['weights']?.slice(36, 40))
  })

  it('names experts even where no score is a number', () => {
    if (addon === null) return
    const input = mixedValues(8, 'input', 16).fill(Number.NaN, 8)
    const { experts = [], weights = [] } = runNative(addon, routing({ ...plain, input }))
    expect(experts.slice(2)).toEqual([0, 1])
    expect(weights.map(Number.isNaN)).toEqual([false, false, true, true])
  })

  it('refuses tokens outside the table and experts outside the gate', () => {
    if (addon === null) return
    const table = [0, 1, 2, 3, 0, 1, 2, 4, 0, 1, -1, 3]
    const refused = (tokens: readonly number[], message: string): void => {
      expect(() => runNative(addon, routing({ ...plain, table, tokens }))).toThrow(
        expect.objectContaining({ code: 'out_of_range', message }),
      )
    }
    refused([0, 6], 'cpu: run: route: token 6 is outside the 6 there are')
    refused([0, 3], 'cpu: run: route: the table gives token 3 expert 4 of 4')
    refused([5, 0], 'cpu: run: route: the table gives token 5 expert -1 of 4')
  })
})
