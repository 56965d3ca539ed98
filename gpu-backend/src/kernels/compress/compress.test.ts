import { describe, expect, it } from 'vitest'
import { ReferenceDevice } from '../../device/reference.ts'
import type { Tensor } from '../../device/tensor.ts'
import { expectClose } from '../testing/expect-close.ts'
import { takeNumbers, type TestSegment, TestTensors } from '../testing/test-tensors.ts'
import { type CompressArgs, compress } from './compress.ts'

const on = new TestTensors(new ReferenceDevice())

interface Layout {
  readonly ratio: number
  readonly span: number
  readonly width: number
  readonly slots?: number
  readonly headRoom?: number
}

/** Cache tensors of one compressor; slot s keeps its entries on page slots − 1 − s. */
function newCache({ ratio, span, width, slots = 2, headRoom = 0 }: Layout) {
  const ring = [slots, span * ratio + headRoom, span * width]
  return {
    valueRing: on.empty('f32', ring),
    scoreRing: on.empty('f32', ring),
    entries: on.empty('f32', [slots, 256 / ratio, width]),
    pages: on.i32(
      [slots, 1],
      Array.from({ length: slots }, (_, slot) => slots - 1 - slot),
    ),
  }
}

type CompressorCache = ReturnType<typeof newCache>

interface Step {
  readonly segments: readonly TestSegment[]
  readonly values: readonly number[]
  readonly scores: readonly number[]
  readonly ape?: readonly number[]
  readonly frequency?: number
  readonly use?: CompressArgs['use']
  readonly quantise?: boolean
}

function run(layout: Layout, cache: CompressorCache, step: Step): void {
  const { ratio, span, width } = layout
  const channels = span * width
  const rows = on.rows(step.segments)
  const count = rows.shape[0] ?? 0
  const frequencies = step.frequency === undefined ? [] : [step.frequency]
  compress(on.device, {
    values: on.f32([count, channels], step.values),
    scores: on.f32([count, channels], step.scores),
    ape: on.f32([ratio, channels], step.ape ?? new Float32Array(ratio * channels)),
    norm: on.bf16([width], new Float32Array(width).fill(1)),
    frequencies: on.f32([frequencies.length], frequencies),
    rows,
    ratio,
    span,
    use: step.use ?? 'keys',
    quantise: step.quantise ?? false,
    eps: 0,
    ...cache,
  })
}

/** Entry `index` of the sequence in `slot`. */
function entry(layout: Layout, cache: CompressorCache, slot: number, index: number): number[] {
  const { width, ratio, slots = 2 } = layout
  const at = ((slots - 1 - slot) * (256 / ratio) + index) * width
  return on.read(cache.entries).slice(at, at + width)
}

/** What rmsnorm with weight 1 makes of two channels. */
function normed(a: number, b: number): [number, number] {
  const rms = Math.sqrt((a * a + b * b) / 2)
  return [a / rms, b / rms]
}

const zeros = (count: number): number[] => Array.from({ length: count }, () => 0)

describe('compress, plain blocks', () => {
  // Width 64 is the narrowest that FP8 can round; without rounding two channels will do.
  const layout: Layout = { ratio: 2, span: 1, width: 2 }

  it('weighs the rows of a block by the softmax of their scores, channel by channel', () => {
    const cache = newCache({ ...layout, width: 64 })
    const wide: Layout = { ...layout, width: 64 }
    const row = (a: number, b: number): number[] => [a, b, ...zeros(62)]
    run(wide, cache, {
      segments: [{ slot: 0, start: 0, length: 2 }],
      values: [...row(1, 4), ...row(3, 8)],
      scores: [...row(0, Math.log(3)), ...row(Math.log(3), 0)],
    })
    const expected = normed(2.5, 5).map((value) => value * Math.sqrt(32))
    expectClose(entry(wide, cache, 0, 0).slice(0, 3), [...expected, 0])
  })

  const narrow: Layout = { ratio: 2, span: 1, width: 2 }
  const still = { frequency: 0 }

  it('adds ape by position modulo ratio', () => {
    const cache = newCache(narrow)
    run(narrow, cache, {
      ...still,
      segments: [{ slot: 0, start: 0, length: 2 }],
      values: [1, 4, 3, 8],
      scores: zeros(4),
      ape: [0, Math.log(3), Math.log(3), 0],
    })
    expectClose(entry(narrow, cache, 0, 0), normed(2.5, 5))
  })

  it('makes no entry of a block that is not complete, and finishes it in a later step', () => {
    const cache = newCache(narrow)
    const before = on.read(cache.entries)
    const step = { ...still, scores: zeros(2) }
    run(narrow, cache, { ...step, segments: [{ slot: 1, start: 0, length: 1 }], values: [1, 4] })
    expect(on.read(cache.entries)).toEqual(before)
    run(narrow, cache, { ...step, segments: [{ slot: 1, start: 1, length: 1 }], values: [3, 8] })
    expectClose(entry(narrow, cache, 1, 0), normed(2, 6))
  })

  it('rotates an entry by the position of its first token', () => {
    const cache = newCache(narrow)
    run(narrow, cache, {
      segments: [{ slot: 0, start: 0, length: 4 }],
      values: [1, 0, 1, 0, 1, 0, 1, 0],
      scores: zeros(8),
      frequency: Math.PI / 4,
    })
    // Block 1 begins at position 2: a quarter turn.
    expectClose(entry(narrow, cache, 0, 0), [Math.SQRT2, 0])
    expectClose(entry(narrow, cache, 0, 1), [0, Math.SQRT2])
  })
})

describe('compress, overlapping blocks', () => {
  const layout: Layout = { ratio: 2, span: 2, width: 2 }
  /** Channels: two for the following block, two for the row's own. */
  const values = [
    [100, 200, 1, 2],
    [300, 400, 3, 4],
    [900, 900, 5, 6],
    [900, 900, 7, 8],
  ].flat()

  it('gives the first block its own rows alone', () => {
    const cache = newCache(layout)
    run(layout, cache, {
      segments: [{ slot: 0, start: 0, length: 2 }],
      values: values.slice(0, 8),
      scores: zeros(8),
      frequency: 0,
    })
    expectClose(entry(layout, cache, 0, 0), normed(2, 3))
  })

  it('pools the first channels of the block before with the second channels of the block', () => {
    const cache = newCache(layout)
    run(layout, cache, {
      segments: [{ slot: 0, start: 0, length: 4 }],
      values,
      scores: zeros(16),
      frequency: 0,
    })
    expectClose(entry(layout, cache, 0, 1), normed(100 + 300 + 5 + 7, 200 + 400 + 6 + 8))
  })

  it('reads ape of both halves by position modulo ratio', () => {
    const cache = newCache(layout)
    const far = -1000
    run(layout, cache, {
      segments: [{ slot: 0, start: 0, length: 4 }],
      values,
      scores: zeros(16),
      // Only odd positions weigh anything as "before", only even ones as "own".
      ape: [far, far, 0, 0, 0, 0, far, far],
      frequency: 0,
    })
    expectClose(entry(layout, cache, 0, 1), normed(300 + 5, 400 + 6))
  })
})

describe('compress, state', () => {
  const layout: Layout = { ratio: 4, span: 2, width: 32, slots: 3, headRoom: 3 }
  const channels = 64

  function feed(cache: CompressorCache, slot: number, cuts: readonly number[]): void {
    let start = 0
    for (const end of cuts) {
      const part = (seed: number): number[] =>
        takeNumbers(seed, end * channels).slice(start * channels)
      run(layout, cache, {
        segments: [{ slot, start, length: end - start }],
        values: part(1),
        scores: part(2),
        ape: takeNumbers(3, 4 * channels),
        frequency: 0.5,
        use: 'index',
        quantise: true,
      })
      start = end
    }
  }

  it('gives the same entries however the tokens are cut, and whatever slot they are in', () => {
    const whole = newCache(layout)
    feed(whole, 0, [24])
    const expected = Array.from({ length: 6 }, (_, j) => entry(layout, whole, 0, j))
    for (const cuts of [Array.from({ length: 24 }, (_, i) => i + 1), [3, 4, 11, 24], [23, 24]]) {
      const cache = newCache(layout)
      feed(cache, 1, cuts)
      expect(Array.from({ length: 6 }, (_, j) => entry(layout, cache, 1, j))).toEqual(expected)
    }
  })

  it('takes back as many tokens as the ring has head-room', () => {
    const expected = newCache(layout)
    feed(expected, 0, [16])
    const cache = newCache(layout)
    feed(cache, 0, [12])
    // Positions 12 … 14 are tried with other values and taken back.
    run(layout, cache, {
      segments: [{ slot: 0, start: 12, length: 3 }],
      values: takeNumbers(9, 3 * channels),
      scores: takeNumbers(9, 3 * channels),
      use: 'index',
    })
    run(layout, cache, {
      segments: [{ slot: 0, start: 12, length: 4 }],
      values: takeNumbers(1, 16 * channels).slice(12 * channels),
      scores: takeNumbers(2, 16 * channels).slice(12 * channels),
      ape: takeNumbers(3, 4 * channels),
      frequency: 0.5,
      use: 'index',
      quantise: true,
    })
    expect(entry(layout, cache, 0, 3)).toEqual(entry(layout, expected, 0, 3))
  })

  it('keeps sequences that share a step apart', () => {
    const alone = newCache(layout)
    feed(alone, 2, [8])
    const cache = newCache(layout)
    const ours = (seed: number): number[] => takeNumbers(seed, 8 * channels)
    run(layout, cache, {
      segments: [
        { slot: 0, start: 0, length: 5 },
        { slot: 2, start: 0, length: 8 },
      ],
      values: [...takeNumbers(7, 5 * channels), ...ours(1)],
      scores: [...takeNumbers(8, 5 * channels), ...ours(2)],
      ape: takeNumbers(3, 4 * channels),
      frequency: 0.5,
      use: 'index',
      quantise: true,
    })
    expect([0, 1].map((j) => entry(layout, cache, 2, j))).toEqual(
      [0, 1].map((j) => entry(layout, alone, 2, j)),
    )
  })
})

describe('compress, rounding', () => {
  function quantised(use: CompressArgs['use'], width: number): number[] {
    const layout: Layout = { ratio: 1, span: 1, width, slots: 1 }
    const cache = newCache(layout)
    run(layout, cache, {
      segments: [{ slot: 0, start: 0, length: 1 }],
      values: takeNumbers(5, width),
      scores: zeros(width),
      frequency: 0,
      use,
      quantise: true,
    })
    return entry(layout, cache, 0, 0)
  }

  it('rounds keys to FP8 outside their rotated elements', () => {
    const found = quantised('keys', 66)
    const raw = takeNumbers(5, 66).map(Math.fround)
    const rms = Math.sqrt(raw.reduce((sum, value) => sum + value * value, 0) / 66)
    // s is 2^-8 for values of about two: every multiple of 2^-17 is representable, few are met.
    const steps = found.slice(0, 64).map((value) => value * 2 ** 17)
    expect(steps.every(Number.isInteger)).toBe(true)
    expect(found[65]).toBeCloseTo((raw[65] ?? 0) / rms, 6)
  })

  it('transforms index keys and rounds them to FP4', () => {
    const found = quantised('index', 32)
    const magnitudes = new Set(found.map(Math.abs))
    expect(magnitudes.size).toBeLessThanOrEqual(8)
    expect(
      Math.max(...magnitudes) / Math.min(...[...magnitudes].filter((m) => m > 0)),
    ).toBeLessThanOrEqual(12)
  })
})

describe('compress, refusals', () => {
  it('refuses a ring that cannot hold what one entry is made of', () => {
    const layout: Layout = { ratio: 2, span: 2, width: 2 }
    const small: Tensor = on.empty('f32', [2, 3, 4])
    const cache = { ...newCache(layout), valueRing: small, scoreRing: small }
    const step = {
      segments: [{ slot: 0, start: 0, length: 1 }],
      values: zeros(4),
      scores: zeros(4),
    }
    expect(() => run(layout, cache, { ...step, frequency: 0 })).toThrow(
      'compress: a ring of 3 rows holds the 4 of one entry',
    )
  })
})
