import { describe, expect, it } from 'vitest'
import { CpuDevice } from '../../device/cpu.ts'
import { DeviceError } from '../../device/device.ts'
import { pageTokens } from '../batch.ts'
import {
  expectSameBits,
  mixedValues,
  type OpRun,
  runNative,
  testedIsas,
} from '../native/testing/both-devices.ts'
import { nativeForTests } from '../native/testing/native-addon.ts'
import { Random } from '../testing/random.ts'
import { type TestSegment, TestTensors } from '../testing/test-tensors.ts'
import { compress } from './compress.ts'

const native = await nativeForTests()
const addon = 'addon' in native ? native.addon : null

interface Problem {
  /** Steps one after the other; what one leaves in the rings the next one reads. */
  readonly steps: readonly (readonly TestSegment[])[]
  readonly ratio: number
  readonly span: number
  readonly width: number
  readonly pairs: number
  readonly ring: number
  readonly use: 'keys' | 'index'
  readonly quantise: boolean
  readonly norm?: 'f32' | 'bf16'
  readonly seed: number
}

const slots = 4
const pagesEach = 6

/** Raw rows by slot and position, so that they do not depend on how a sequence is cut into steps. */
function rawRows(problem: Problem, step: readonly TestSegment[], name: string): Float32Array {
  const channels = problem.span * problem.width
  const parts = step.flatMap(({ slot, start, length }) =>
    Array.from({ length }, (_, i) => [
      ...mixedValues(problem.seed, `${name} ${slot} ${start + i}`, channels),
    ]),
  )
  return Float32Array.from(parts.flat())
}

/** Every sequence's pages in shuffled order among those of the others. */
function shuffledPages(seed: number): number[] {
  return new Random(seed, 'pages').permutation(slots * pagesEach)
}

function compressing(problem: Problem): OpRun {
  const { steps, ratio, span, width, pairs, ring, use, quantise, seed } = problem
  const channels = span * width
  return (on) => {
    const ringValues = mixedValues(seed, 'ring', slots * ring * channels)
    const valueRing = on.f32([slots, ring, channels], ringValues)
    const scoreRing = on.f32([slots, ring, channels], ringValues)
    const perPage = pageTokens / ratio
    const entries = on.filled([slots * pagesEach, perPage, width], 77)
    const shared = {
      ape: on.f32([ratio, channels], mixedValues(seed, 'ape', ratio * channels)),
      norm: on[problem.norm ?? 'f32']([width], mixedValues(seed, 'norm', width)),
      frequencies: on.f32(
        [pairs],
        Array.from({ length: pairs }, (_, i) => 160_000 ** (-i / pairs)),
      ),
      pages: on.i32([slots, pagesEach], shuffledPages(seed)),
    }
    for (const step of steps) {
      const rows = on.rows(step)
      const count = rows.shape[0] ?? 0
      const values = on.f32([count, channels], rawRows(problem, step, 'values'))
      const scores = on.f32([count, channels], rawRows(problem, step, 'scores'))
      const rings = { valueRing, scoreRing, entries }
      const options = { ratio, span, use, quantise, eps: 1e-6 }
      compress(on.device, { ...shared, ...rings, ...options, values, scores, rows })
    }
    return {
      entries: on.read(entries),
      valueRing: on.read(valueRing),
      scoreRing: on.read(scoreRing),
    }
  }
}

/** A prompt, a chunk that starts inside a block, single tokens that complete one or do not. */
function raggedSteps(ratio: number): readonly (readonly TestSegment[])[] {
  return [
    [
      { slot: 2, start: 0, length: 2 * ratio + 1 },
      { slot: 0, start: 0, length: ratio - 1 },
      { slot: 3, start: 0, length: 3 },
    ],
    [
      { slot: 0, start: ratio - 1, length: 1 },
      { slot: 2, start: 2 * ratio + 1, length: 1 },
    ],
    [
      { slot: 2, start: 2 * ratio + 2, length: 5 * ratio },
      { slot: 0, start: ratio, length: 1 },
      { slot: 3, start: 3, length: 2 * ratio },
    ],
  ]
}

const csa = { ratio: 4, span: 2, ring: 8, pairs: 8 } as const
const hca = { ratio: 16, span: 1, ring: 19, pairs: 8 } as const

describe.skipIf(addon === null)('native compress', () => {
  // Softmax, norm, rotation and transform are done in double on both sides, exp by another series:
  // an fp32 differs only where the double lies within 2^-26 of a rounding boundary.
  it('leaves the bits of the reference in entries and rings', () => {
    if (addon === null) return
    let seed = 1
    for (const kind of [csa, hca]) {
      for (const use of ['keys', 'index'] as const) {
        for (const quantise of [false, true]) {
          const shape = { ...kind, width: use === 'keys' ? 80 : 64, use, quantise, seed: seed++ }
          const problem: Problem = { ...shape, steps: raggedSteps(kind.ratio) }
          expectSameBits(addon, compressing(problem), JSON.stringify(shape))
        }
      }
    }
  })

  it('leaves them at real dimensions', () => {
    if (addon === null) return
    const shared = { pairs: 32, quantise: true, norm: 'bf16', seed: 20 } as const
    const steps = [[{ slot: 1, start: 0, length: 9 }]]
    for (const problem of [
      { ...shared, steps, ratio: 4, span: 2, width: 512, ring: 11, use: 'keys' },
      { ...shared, steps, ratio: 4, span: 2, width: 128, ring: 11, use: 'index' },
      {
        ...shared,
        steps: [[{ slot: 1, start: 0, length: 129 }]],
        ratio: 128,
        span: 1,
        width: 512,
        ring: 128,
        use: 'keys',
      },
    ] as const) {
      expectSameBits(addon, compressing(problem), JSON.stringify(problem))
    }
  })

  it('pools a prompt in chunks to the bits it has at once', () => {
    if (addon === null) return
    for (const isa of testedIsas) {
      const shape = { ...csa, width: 64, use: 'index', quantise: true, seed: 9 } as const
      const whole = [[{ slot: 1, start: 0, length: 50 }]]
      const cuts = [0, 1, 7, 8, 30, 50]
      const chunks = cuts.slice(1).map((end, i) => {
        const start = cuts[i] ?? 0
        return [{ slot: 1, start, length: end - start }]
      })
      const atOnce = runNative(addon, compressing({ ...shape, steps: whole }), { isa })
      const inChunks = runNative(addon, compressing({ ...shape, steps: chunks }), { isa })
      expect(inChunks).toEqual(atOnce)
    }
  })

  it('passes NaN on to its channel’s block and to no other', () => {
    if (addon === null) return
    const found = runNative(addon, (on) => {
      const scores = new Float32Array(8 * 2)
      scores[1] = Number.NaN
      const entries = on.filled([1, 64, 2], 5)
      compress(on.device, {
        values: on.filled([8, 2], 1),
        scores: on.f32([8, 2], scores),
        ape: on.filled([4, 2], 0),
        norm: on.filled([2], 1),
        frequencies: on.f32([1], [0]),
        rows: on.rows([{ slot: 0, start: 0, length: 8 }]),
        pages: on.i32([1, 1], [0]),
        valueRing: on.filled([1, 4, 2], 0),
        scoreRing: on.filled([1, 4, 2], 0),
        entries,
        ratio: 4,
        span: 1,
        use: 'keys',
        quantise: false,
        eps: 0,
      })
      return { entries: on.read(entries).slice(0, 6) }
    })
    // Norming spreads it over the entry it is in.
    expect(found['entries']).toEqual([Number.NaN, Number.NaN, 1, 1, 5, 5])
  })

  it('refuses an entry without a page before it has written anything', () => {
    if (addon === null) return
    const device = new CpuDevice(addon, { threads: 2 })
    const on = new TestTensors(device)
    const valueRing = on.filled([1, 4, 2], 3)
    const call = (): void => {
      compress(device, {
        values: on.filled([8, 2], 1),
        scores: on.filled([8, 2], 1),
        ape: on.filled([4, 2], 0),
        norm: on.filled([2], 1),
        frequencies: on.f32([1], [0]),
        rows: on.rows([{ slot: 0, start: 508, length: 8 }]),
        pages: on.i32([1, 2], [0, 1]),
        valueRing,
        scoreRing: on.filled([1, 4, 2], 3),
        entries: on.filled([2, 64, 2], 5),
        ratio: 4,
        span: 1,
        use: 'keys',
        quantise: false,
        eps: 0,
      })
      device.synchronise()
    }
    let refusal: unknown
    try {
      call()
    } catch (error) {
      refusal = error
    }
    expect(refusal).toBeInstanceOf(DeviceError)
    expect(refusal).toMatchObject({ code: 'out_of_range' })
    expect(String(refusal)).toContain('slot 0 has no page for entry 128')
    expect(on.read(valueRing)).toEqual(Array.from({ length: 8 }, () => 3))
    device.close()
  })
})
