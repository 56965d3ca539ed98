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
import { compactRowBytes, encodeRow } from '../numerics/compact-rows.ts'
import { simulateFp4 } from '../numerics/simulate.ts'
import { Random } from '../testing/random.ts'
import { type TestSegment, TestTensors } from '../testing/test-tensors.ts'
import { indexSelect } from './index-select.ts'

const native = await nativeForTests()
const addon = 'addon' in native ? native.addon : null

/**
 * `fp4`: rounded as the model rounds them; `tiny` and `huge` as well, but of a size beyond what the
 * kernels make whole numbers of. `mixed`: every third is not. `ties`: few scores differ.
 */
type Values = 'fp4' | 'tiny' | 'huge' | 'plain' | 'mixed' | 'ties'

const sizes: Readonly<Partial<Record<Values, number>>> = { tiny: 2 ** -60, huge: 2 ** 50 }

interface Problem {
  readonly segments: readonly TestSegment[]
  readonly heads: number
  readonly head: number
  readonly topK: number
  readonly ratio: number
  readonly queries: Values
  readonly keys: Values
  /** Keys as their rows of codes and scales; they have to be `fp4`. */
  readonly compact?: boolean
  readonly seed: number
}

const slots = 4
const pagesEach = 10

const vectors = new Map<string, Float32Array>()

/** The same for the same arguments; not to be changed. */
function vector(problem: Problem, kind: Values, label: string): Float32Array {
  const key = `${problem.seed} ${problem.head} ${kind} ${label}`
  const found = vectors.get(key) ?? drawVector(problem, kind, label)
  vectors.set(key, found)
  return found
}

function drawVector(problem: Problem, kind: Values, label: string): Float32Array {
  const random = new Random(problem.seed, label)
  if (kind === 'ties') {
    return Float32Array.from({ length: problem.head }, () => random.below(3) - 1)
  }
  const size = sizes[kind] ?? 1
  const values = mixedValues(problem.seed, label, problem.head).map((value) => value * size)
  const rounded = kind === 'mixed' ? random.below(3) > 0 : kind !== 'plain'
  if (rounded) simulateFp4(values, { at: 0, length: values.length })
  return values
}

/** Every key that some row sees, at its place; rubbish elsewhere. */
function placeEntries(on: TestTensors, problem: Problem, pages: readonly number[]): Tensor {
  const { segments, head, ratio, compact = false } = problem
  const perPage = pageTokens / ratio
  const layout = { kind: 'index', width: head } as const
  const rowBytes = compactRowBytes(layout)
  const values = new Float32Array(slots * pagesEach * perPage * head).fill(Number.NaN)
  const bytes = new Uint8Array(slots * pagesEach * perPage * rowBytes).fill(255)
  for (const { slot, start, length } of segments) {
    for (let entry = 0; entry < visibleEntries(start + length - 1, ratio); entry++) {
      const page = pages[slot * pagesEach + Math.floor(entry / perPage)] ?? 0
      const place = page * perPage + (entry % perPage)
      const key = vector(problem, problem.keys, `key ${slot} ${entry}`)
      values.set(key, place * head)
      encodeRow(layout, key, bytes.subarray(place * rowBytes, (place + 1) * rowBytes))
    }
  }
  const extents = [slots * pagesEach, perPage]
  if (compact) return on.bytes('u8', [...extents, rowBytes], bytes)
  return on.f32([...extents, head], values)
}

/** Queries by slot and position and keys by entry, so that they do not depend on the batch. */
function selecting(problem: Problem): OpRun {
  const { segments, heads, head, topK, ratio, seed } = problem
  return (on) => {
    const rows = on.rows(segments)
    const count = rows.shape[0] ?? 0
    const positions = segments.flatMap(({ slot, start, length }) =>
      Array.from({ length }, (_, i) => `${slot} ${start + i}`),
    )
    const queries = positions.flatMap((position) =>
      Array.from({ length: heads }, (_, h) => [
        ...vector(problem, problem.queries, `query ${position} ${h}`),
      ]).flat(),
    )
    const weights = positions.flatMap((position) => {
      const drawn = [...mixedValues(seed, `weights ${position}`, heads)]
      return problem.queries === 'ties' ? drawn.map(Math.round) : drawn
    })
    const pages = new Random(seed, 'pages').permutation(slots * pagesEach)
    const selected = on.empty('i32', [count, topK])
    indexSelect(on.device, {
      queries: on.f32([count, heads, head], queries),
      weights: on.f32([count, heads], weights),
      scale: 0.25,
      entries: placeEntries(on, problem, pages),
      rows,
      pages: on.i32([slots, pagesEach], pages),
      ratio,
      selected,
    })
    return { selected: on.read(selected) }
  }
}

const ragged: readonly TestSegment[] = [
  { slot: 2, start: 0, length: 20 },
  { slot: 0, start: 1030, length: 18 },
  { slot: 3, start: 255, length: 1 },
  { slot: 1, start: 2222, length: 1 },
]

const shape = { segments: ragged, heads: 4, head: 64, topK: 8, ratio: 4 } as const

const problems: readonly Problem[] = [
  { ...shape, queries: 'fp4', keys: 'fp4', seed: 1 },
  { ...shape, queries: 'plain', keys: 'plain', seed: 2 },
  { ...shape, queries: 'fp4', keys: 'mixed', seed: 3 },
  { ...shape, queries: 'mixed', keys: 'fp4', seed: 4 },
  { ...shape, queries: 'ties', keys: 'ties', seed: 5 },
  { ...shape, queries: 'ties', keys: 'ties', heads: 17, head: 32, topK: 100, seed: 6 },
  { ...shape, queries: 'fp4', keys: 'fp4', heads: 33, head: 128, topK: 1, seed: 7 },
  { ...shape, queries: 'plain', keys: 'plain', heads: 1, topK: 300, seed: 8 },
  { ...shape, queries: 'ties', keys: 'ties', ratio: 16, seed: 9 },
  { ...shape, queries: 'fp4', keys: 'fp4', compact: true, seed: 10 },
  { ...shape, queries: 'plain', keys: 'fp4', compact: true, heads: 17, head: 128, seed: 11 },
  { ...shape, queries: 'fp4', keys: 'tiny', compact: true, seed: 12 },
  { ...shape, queries: 'fp4', keys: 'huge', compact: true, seed: 13 },
  { ...shape, queries: 'fp4', keys: 'huge', seed: 13 },
]

describe.skipIf(addon === null)('native index-select', { timeout: 60_000 }, () => {
  // Scores that are near enough to change places by rounding do not occur under these seeds; the
  // conformance suite knows how near that is. Equal ones occur by the hundred.
  it('selects what the reference selects', () => {
    if (addon === null) return
    for (const problem of problems) {
      const expected = runReference(selecting(problem))
      for (const isa of testedIsas) {
        const found = runNative(addon, selecting(problem), { isa })
        expect(found, `${isa}, ${JSON.stringify(problem)}`).toEqual(expected)
      }
    }
  })

  it('selects the same on any number of threads, alone and among others', () => {
    if (addon === null) return
    for (const isa of testedIsas) {
      for (const problem of problems) {
        const all = runNative(addon, selecting(problem), { isa, threads: 1 })['selected'] ?? []
        const threads = runNative(addon, selecting(problem), { isa, threads: 5 })['selected']
        expect(threads).toEqual(all)
        const alone = { ...problem, segments: [{ slot: 0, start: 1033, length: 2 }] }
        const lone = runNative(addon, selecting(alone), { isa })['selected']
        expect(lone).toEqual(all.slice(23 * problem.topK, 25 * problem.topK))
      }
    }
  })

  it('selects the same of compact rows as of the values they stand for', () => {
    if (addon === null) return
    for (const isa of testedIsas) {
      for (const problem of problems.filter(({ compact }) => compact === true)) {
        const compact = runNative(addon, selecting(problem), { isa })
        const plain = runNative(addon, selecting({ ...problem, compact: false }), { isa })
        expect(compact).toEqual(plain)
      }
    }
  })

  it('takes the lower index of equal scores, whatever their number', () => {
    if (addon === null) return
    for (const isa of testedIsas) {
      const { selected } = runNative(
        addon,
        (on) => {
          const keys = new Float32Array(1024 * 32)
          // Two in three entries score 0, the others less; 700 scores most.
          for (let j = 2; j < 1024; j += 3) keys[j * 32] = 1
          keys.set([-8], 700 * 32)
          const found = on.empty('i32', [1, 6])
          indexSelect(on.device, {
            queries: on.f32([1, 2, 32], new Float32Array(64).fill(1, 0, 1).fill(-1, 32, 33)),
            weights: on.f32([1, 2], [-1, 1]),
            scale: 1,
            entries: on.f32([16, 64, 32], keys),
            rows: on.rows([{ slot: 0, start: 4095, length: 1 }]),
            pages: on.i32(
              [1, 16],
              Array.from({ length: 16 }, (_, page) => page),
            ),
            ratio: 4,
            selected: found,
          })
          return { selected: on.read(found) }
        },
        { isa },
      )
      expect(selected).toEqual([0, 1, 3, 4, 6, 700])
    }
  })

  it('still selects as many different entries where scores are no numbers', () => {
    if (addon === null) return
    for (const isa of testedIsas) {
      for (const wrong of [Number.NaN, Infinity, -Infinity]) {
        const { selected = [] } = runNative(
          addon,
          (on) => {
            const keys = mixedValues(1, 'keys', 128 * 32)
            for (let j = 0; j < 128; j += 2) keys[j * 32 + 5] = wrong
            const found = on.empty('i32', [1, 100])
            indexSelect(on.device, {
              queries: on.f32([1, 1, 32], mixedValues(2, 'query', 32)),
              weights: on.f32([1, 1], [1]),
              scale: 1,
              entries: on.f32([2, 64, 32], keys),
              rows: on.rows([{ slot: 0, start: 511, length: 1 }]),
              pages: on.i32([1, 2], [1, 0]),
              ratio: 4,
              selected: found,
            })
            return { selected: on.read(found) }
          },
          { isa },
        )
        expect(new Set(selected).size).toBe(100)
        expect(selected).toEqual(selected.toSorted((a, b) => a - b))
        expect(selected.every((pick) => pick >= 0 && pick < 128)).toBe(true)
      }
    }
  })

  it('refuses visible entries without a page', () => {
    if (addon === null) return
    const device = new CpuDevice(addon, { threads: 2 })
    const on = new TestTensors(device)
    const call = (pages: readonly number[]): void => {
      indexSelect(device, {
        queries: on.filled([1, 1, 32], 1),
        weights: on.filled([1, 1], 1),
        scale: 1,
        entries: on.filled([2, 64, 32], 1),
        rows: on.rows([{ slot: 0, start: 511, length: 1 }]),
        pages: on.i32([1, pages.length], pages),
        ratio: 4,
        selected: on.empty('i32', [1, 3]),
      })
      device.synchronise()
    }
    const refused = expect.objectContaining({ code: 'out_of_range' })
    expect(() => call([0])).toThrow(refused)
    expect(() => call([0, -1])).toThrow(refused)
    expect(() => call([0, 2])).toThrow(refused)
    call([1, 0])
    device.close()
  })
})
