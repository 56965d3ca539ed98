import { describe, expect, it } from 'vitest'
import {
  expectSameBits,
  mixedValues,
  type OpRun,
  runNative,
} from '../native/testing/both-devices.ts'
import { nativeForTests } from '../native/testing/native-addon.ts'
import {
  placeStreams,
  placeUpdate,
  rowOf,
  type StreamInputs,
  streamInputs,
} from '../native/testing/stream-inputs.ts'
import { Random } from '../testing/random.ts'
import { hcPre } from './hc-pre.ts'

const native = await nativeForTests()
const addon = 'addon' in native ? native.addon : null

interface Problem {
  readonly inputs: StreamInputs
  readonly pending: boolean
  readonly norm: 'f32' | 'bf16'
  readonly iterations: number
}

function entering({ inputs, pending, norm, iterations }: Problem): OpRun {
  return (on) => {
    const { rows, streams: count, hidden } = inputs
    const outputs = (2 + count) * count
    const random = new Random(17, 'mixes')
    const normal = (length: number): Float32Array =>
      Float32Array.from({ length }, () => random.normal())
    const fn = normal(outputs * count * hidden).map((x) => x / Math.sqrt(count * hidden))
    const streams = placeStreams(on, inputs)
    const normed = on.empty('f32', [rows, hidden])
    const post = on.empty('f32', [rows, count])
    const mix = on.empty('f32', [rows, count, count])
    hcPre(on.device, {
      streams,
      pending: pending ? placeUpdate(on, inputs) : null,
      fn: on.f32([outputs, count * hidden], fn),
      scale: on.f32([3], [0.7, 1.1, 2.5]),
      base: on.f32([outputs], normal(outputs)),
      norm: on[norm]([hidden], mixedValues(2, 'norm', hidden)),
      sinkhornIterations: iterations,
      hcEps: 1e-6,
      normEps: 1e-6,
      normed,
      post,
      mix,
    })
    const read = { normed: on.read(normed), post: on.read(post), mix: on.read(mix) }
    return { ...read, streams: on.read(streams) }
  }
}

const shapes: readonly (readonly [rows: number, streams: number, hidden: number])[] = [
  [1, 4, 64],
  [1, 4, 4096],
  [2, 4, 513],
  [7, 4, 200],
  [70, 4, 64],
  [3, 2, 31],
  [4, 1, 96],
  [9, 3, 5],
]

describe.skipIf(addon === null)('native hc-pre', () => {
  // Sums in double in another order differ in the last bit kept only where they lie within
  // n·2^-53 of a boundary between two fp32: about one value in 10^5, none of these.
  it('leaves the bits of the reference, with and without a pending update', () => {
    if (addon === null) return
    let seed = 1
    for (const [rows, streams, hidden] of shapes) {
      for (const pending of [false, true]) {
        const inputs = streamInputs(seed, { rows, streams, hidden })
        const iterations = seed % 3 === 0 ? 1 : 20
        const norm = seed++ % 2 === 0 ? 'f32' : 'bf16'
        const label = JSON.stringify({ rows, streams, hidden, pending, iterations, norm })
        expectSameBits(addon, entering({ inputs, pending, norm, iterations }), label)
      }
    }
  })

  it('gives a row the same bits alone as among others, on any number of threads', () => {
    if (addon === null) return
    const inputs = streamInputs(11, { rows: 75, streams: 4, hidden: 72 })
    const problem = { inputs, pending: true, norm: 'bf16', iterations: 20 } as const
    const together = runNative(addon, entering(problem), { threads: 5 })
    expect(runNative(addon, entering(problem), { threads: 1 })).toEqual(together)
    for (const row of [0, 3, 63, 64, 74]) {
      const alone = runNative(addon, entering({ ...problem, inputs: rowOf(inputs, row) }))
      for (const [name, values] of Object.entries(alone)) {
        const width = values.length
        expect(values, `${name} of row ${row}`).toEqual(
          together[name]?.slice(row * width, (row + 1) * width),
        )
      }
    }
  })

  it('takes zeros, and sums that are far from one', () => {
    if (addon === null) return
    const inputs = streamInputs(5, { rows: 3, streams: 4, hidden: 64 })
    inputs.values.fill(0, 0, 256)
    inputs.values.fill(2 ** -80, 256, 512)
    inputs.values.fill(2 ** 70, 512)
    const problem = { inputs, pending: false, norm: 'f32', iterations: 20 } as const
    expectSameBits(addon, entering(problem), 'zeros and far sizes')
  })

  it('spreads NaN over its own row and no other', () => {
    if (addon === null) return
    const inputs = streamInputs(5, { rows: 3, streams: 4, hidden: 64 })
    inputs.values[256 + 100] = Number.NaN
    const problem = { inputs, pending: true, norm: 'f32', iterations: 20 } as const
    const { normed = [], mix = [], post = [] } = runNative(addon, entering(problem))
    expect(normed.map(Number.isNaN)).toEqual(normed.map((_, i) => i >= 64 && i < 128))
    expect(mix.map(Number.isNaN)).toEqual(mix.map((_, i) => i >= 16 && i < 32))
    expect(post.map(Number.isNaN)).toEqual(post.map((_, i) => i >= 4 && i < 8))
  })
})
