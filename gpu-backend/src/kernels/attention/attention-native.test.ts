import { describe, expect, it } from 'vitest'
import { CpuDevice } from '../../device/cpu.ts'
import type { Tensor } from '../../device/tensor.ts'
import { pageTokens, visibleEntries } from '../batch.ts'
import {
  mixedValues,
  type OpRun,
  runNative,
  runReference,
  testedIsas,
} from '../native/testing/both-devices.ts'
import { nativeForTests } from '../native/testing/native-addon.ts'
import { Random } from '../testing/random.ts'
import { type TestSegment, TestTensors } from '../testing/test-tensors.ts'
import { attention } from './attention.ts'

const native = await nativeForTests()
const addon = 'addon' in native ? native.addon : null

// How far outputs may be from the definition is the conformance suite's business, which knows a
// bound for each. Here: all steps of a sequence together, what may not change a bit, and refusals.

interface Problem {
  /** Steps one after the other; what one leaves in the window the next one reads. */
  readonly steps: readonly (readonly TestSegment[])[]
  readonly heads: number
  readonly head: number
  readonly pairs: number
  readonly windowSize: number
  readonly ring: number
  /** Absent: no compressed entries. `topK` absent: every visible one. */
  readonly compressed?: { readonly ratio: number; readonly topK?: number }
  readonly seed: number
}

const slots = 4
const pagesEach = 8

/** Rows by slot and position, so that they do not depend on the batch they are in. */
function rowValues(
  { seed }: Problem,
  step: readonly TestSegment[],
  name: string,
  width: number,
): Float32Array {
  const rows = step.flatMap(({ slot, start, length }) =>
    Array.from({ length }, (_, i) => {
      return [...mixedValues(seed, `${name} ${slot} ${start + i}`, width)]
    }),
  )
  return Float32Array.from(rows.flat())
}

/** Each row's picks in ascending order with −1 anywhere between them; some rows have none. */
function picksOf(problem: Problem, step: readonly TestSegment[], topK: number): number[] {
  const ratio = problem.compressed?.ratio ?? 1
  return step.flatMap(({ slot, start, length }) =>
    Array.from({ length }, (_, i) => {
      const random = new Random(problem.seed, `picks ${slot} ${start + i}`)
      const visible = visibleEntries(start + i, ratio)
      const count = (start + i) % 5 === 0 ? 0 : Math.min(topK, visible)
      const picks = random.permutation(visible).slice(0, count)
      const places = random.permutation(topK).slice(0, count)
      const row = Array.from({ length: topK }, () => -1)
      const ascending = picks.toSorted((a, b) => a - b)
      for (const [order, place] of places.toSorted((a, b) => a - b).entries()) {
        row[place] = ascending[order] ?? -1
      }
      return row
    }).flat(),
  )
}

function attending(problem: Problem): OpRun {
  const { steps, heads, head, pairs, windowSize, ring, compressed, seed } = problem
  return (on) => {
    const window = on.f32([slots, ring, head], mixedValues(seed, 'window', slots * ring * head))
    const shared = {
      window,
      windowSize,
      sink: on.f32([heads], mixedValues(seed, 'sink', heads)),
      frequencies: on.f32(
        [pairs],
        Array.from({ length: pairs }, (_, i) => 10_000 ** (-i / pairs)),
      ),
      pages: on.i32([slots, pagesEach], new Random(seed, 'pages').permutation(slots * pagesEach)),
      scale: head ** -0.5,
    }
    const perPage = pageTokens / (compressed?.ratio ?? pageTokens)
    const entryShape = [slots * pagesEach, perPage, head]
    const entries = on.f32(
      entryShape,
      mixedValues(seed, 'entries', slots * pagesEach * perPage * head),
    )
    const outputs = steps.map((step): Tensor => {
      const rows = on.rows(step)
      const count = rows.shape[0] ?? 0
      const output = on.empty('f32', [count, heads, head])
      const { ratio = 1, topK } = compressed ?? {}
      const selected =
        topK === undefined ? null : on.i32([count, topK], picksOf(problem, step, topK))
      attention(on.device, {
        ...shared,
        queries: on.f32([count, heads, head], rowValues(problem, step, 'query', heads * head)),
        keys: on.f32([count, head], rowValues(problem, step, 'key', head)),
        compressed: compressed === undefined ? null : { entries, ratio, selected },
        rows,
        output,
      })
      return output
    })
    return { outputs: outputs.flatMap((output) => on.read(output)), window: on.read(window) }
  }
}

/** √(Σ(a − b)² ÷ Σb²) */
function relativeError(found: readonly number[], expected: readonly number[]): number {
  let [error, power] = [0, 0]
  for (const [i, value] of expected.entries()) {
    error += ((found[i] ?? Number.NaN) - value) ** 2
    power += value ** 2
  }
  return Math.sqrt(error / power)
}

/** A prompt, decode rows, a chunk longer than the ring, a sequence behind many pages. */
const steps: readonly (readonly TestSegment[])[] = [
  [
    { slot: 1, start: 0, length: 11 },
    { slot: 3, start: 2000, length: 2 },
  ],
  [
    { slot: 1, start: 11, length: 1 },
    { slot: 0, start: 0, length: 1 },
    { slot: 3, start: 2002, length: 1 },
  ],
  [
    { slot: 3, start: 2003, length: 1 },
    { slot: 1, start: 12, length: 40 },
  ],
]

const toy = { steps, heads: 4, head: 64, pairs: 8, windowSize: 16, ring: 19 } as const

const problems: readonly Problem[] = [
  { ...toy, seed: 1 },
  { ...toy, ring: 15, seed: 2 },
  { ...toy, compressed: { ratio: 4 }, seed: 3 },
  { ...toy, compressed: { ratio: 4, topK: 8 }, seed: 4 },
  { ...toy, compressed: { ratio: 4, topK: 300 }, seed: 5 },
  { ...toy, compressed: { ratio: 128 }, heads: 17, seed: 6 },
  { ...toy, compressed: { ratio: 16, topK: 5 }, heads: 1, head: 70, pairs: 3, seed: 7 },
  { ...toy, heads: 33, head: 33, pairs: 0, windowSize: 1, ring: 1, seed: 8 },
  { ...toy, heads: 16, head: 512, pairs: 32, windowSize: 130, ring: 140, seed: 9 },
]

const threadCounts = [1, 2, 5]

describe.skipIf(addon === null)('native attention', { timeout: 60_000 }, () => {
  it('is as near to the reference as fp32 sums are, and leaves the same window', () => {
    if (addon === null) return
    for (const problem of problems) {
      const expected = runReference(attending(problem))
      for (const isa of testedIsas) {
        const found = runNative(addon, attending(problem), { isa })
        const error = relativeError(found['outputs'] ?? [], expected['outputs'] ?? [])
        const label = `${isa}, ${JSON.stringify(problem)}`
        // Scores reach some hundreds here, and 2^-24 of that is a weight's relative error.
        expect(error, label).toBeLessThan(5e-6)
        expect(found['window'], label).toEqual(expected['window'])
      }
    }
  })

  it('gives the same bits on any number of threads', () => {
    if (addon === null) return
    for (const problem of problems) {
      const [first, ...others] = threadCounts.map((threads) =>
        runNative(addon, attending(problem), { threads }),
      )
      for (const other of others) expect(other, JSON.stringify(problem)).toEqual(first)
    }
  })

  it('gives a sequence the same bits whatever else is in the batch and however it is cut', () => {
    if (addon === null) return
    for (const isa of testedIsas) {
      const shape = { ...toy, compressed: { ratio: 4, topK: 8 }, ring: 60, seed: 5 }
      const run = (cut: readonly (readonly TestSegment[])[]): readonly number[] =>
        runNative(addon, attending({ ...shape, steps: cut }), { isa })['outputs'] ?? []
      const alone = run([[{ slot: 1, start: 0, length: 40 }]])
      const inPieces = run([
        [{ slot: 1, start: 0, length: 1 }],
        [{ slot: 1, start: 1, length: 30 }],
        [{ slot: 1, start: 31, length: 9 }],
      ])
      expect(inPieces).toEqual(alone)
      const others = { slot: 2, start: 0, length: 3 }
      const among = run([[others, { slot: 1, start: 0, length: 40 }, { ...others, slot: 0 }]])
      const rowValuesEach = shape.heads * shape.head
      expect(among.slice(3 * rowValuesEach, 43 * rowValuesEach)).toEqual(alone)
    }
  })

  it('keeps NaN and infinity to the rows and heads that see them', () => {
    if (addon === null) return
    for (const isa of testedIsas) {
      for (const wrong of [Number.NaN, Infinity, -Infinity]) {
        const { output = [] } = runNative(
          addon,
          (on) => {
            const keys = new Float32Array(4 * 2).fill(1)
            keys[2 * 2] = wrong
            const queries = new Float32Array(4 * 2 * 2).fill(1)
            queries[1 * 4 + 2] = wrong
            const into = on.empty('f32', [4, 2, 2])
            attention(on.device, {
              queries: on.f32([4, 2, 2], queries),
              keys: on.f32([4, 2], keys),
              window: on.filled([1, 2, 2], 0),
              windowSize: 2,
              compressed: null,
              sink: on.filled([2], 0),
              frequencies: on.f32([0], []),
              rows: on.rows([{ slot: 0, start: 0, length: 4 }]),
              pages: on.i32([1, 1], [0]),
              scale: 1,
              output: into,
            })
            return { output: on.read(into) }
          },
          { isa },
        )
        const finite = Array.from({ length: 8 }, (_, rowHead) =>
          output.slice(2 * rowHead, 2 * rowHead + 2).every(Number.isFinite),
        )
        // Key 2 is seen by rows 2 and 3, query 1 of head 1 by itself. Where every score is minus
        // infinity there is no largest to relate them to.
        expect(finite).toEqual([true, true, true, false, false, false, false, false])
      }
    }
  })

  it('takes sinks and scores of any size', () => {
    if (addon === null) return
    const run = (sink: number, query: number): OpRun => {
      return (on) => {
        const output = on.empty('f32', [1, 1, 1])
        attention(on.device, {
          queries: on.f32([1, 1, 1], [query]),
          keys: on.f32([1, 1], [1000]),
          window: on.filled([1, 1, 1], 0),
          windowSize: 1,
          compressed: null,
          sink: on.f32([1], [sink]),
          frequencies: on.f32([0], []),
          rows: on.rows([{ slot: 0, start: 0, length: 1 }]),
          pages: on.i32([1, 1], [0]),
          scale: 1,
          output,
        })
        return { output: on.read(output) }
      }
    }
    expect(runNative(addon, run(-Infinity, 3))['output']).toEqual([1000])
    expect(runNative(addon, run(-3e38, 3))['output']).toEqual([1000])
    expect(runNative(addon, run(3e38, 3))['output']).toEqual([0])
    expect(runNative(addon, run(0, -1e30))['output']).toEqual([0])
    expect(runNative(addon, run(0, 0))['output']).toEqual([500])
  })

  it('refuses rows and selections that lead outside, before it has written anything', () => {
    if (addon === null) return
    const device = new CpuDevice(addon, { threads: 2 })
    const on = new TestTensors(device)
    const output = on.filled([1, 1, 2], 7)
    const call = (row: readonly number[], selected: readonly number[] | null): void => {
      const picks = selected === null ? null : on.i32([1, selected.length], selected)
      attention(device, {
        queries: on.filled([1, 1, 2], 1),
        keys: on.filled([1, 2], 1),
        window: on.filled([2, 3, 2], 1),
        windowSize: 3,
        compressed: { entries: on.filled([1, 64, 2], 1), ratio: 4, selected: picks },
        sink: on.filled([1], 0),
        frequencies: on.f32([0], []),
        rows: on.i32([1, 4], row),
        pages: on.i32([2, 2], [0, -1, 5, -1]),
        scale: 1,
        output,
      })
      device.synchronise()
    }
    const refused = expect.objectContaining({ code: 'out_of_range' })
    expect(() => call([5, 2, 5, 6], null)).toThrow(refused)
    expect(() => call([5, -1, 5, 6], null)).toThrow(refused)
    expect(() => call([5, 0, 4, 6], null)).toThrow(refused)
    expect(() => call([5, 0, 5, 5], null)).toThrow(refused)
    expect(() => call([-1, 0, -1, 1], null)).toThrow(refused)
    expect(() => call([300, 0, 300, 301], null)).toThrow(refused)
    expect(() => call([5, 1, 5, 6], null)).toThrow(refused)
    expect(() => call([5, 0, 5, 6], [0, 64])).toThrow(refused)
    expect(() => call([5, 0, 5, 6], [2_000_000_000])).toThrow(refused)
    expect(on.read(output)).toEqual([7, 7])
    call([5, 0, 5, 6], [0, -1])
    expect(on.read(output)).not.toEqual([7, 7])
    device.close()
  })
})
