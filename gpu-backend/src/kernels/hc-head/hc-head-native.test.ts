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
import { hcHead } from './hc-head.ts'

const native = await nativeForTests()
const addon = 'addon' in native ? native.addon : null

interface Problem {
  readonly inputs: StreamInputs
  readonly picks: readonly number[]
  readonly pending: boolean
}

function leaving({ inputs, picks, pending }: Problem): OpRun {
  return (on) => {
    const { streams: count, hidden } = inputs
    const random = new Random(19, 'head')
    const normal = (length: number): Float32Array =>
      Float32Array.from({ length }, () => random.normal())
    const fn = normal(count * count * hidden).map((x) => x / Math.sqrt(count * hidden))
    const streams = placeStreams(on, inputs)
    const output = on.empty('f32', [picks.length, hidden])
    hcHead(on.device, {
      streams,
      pending: pending ? placeUpdate(on, inputs) : null,
      picks: on.i32([picks.length], picks),
      fn: on.f32([count, count * hidden], fn),
      scale: on.f32([1], [0.8]),
      base: on.f32([count], normal(count)),
      norm: on.bf16([hidden], mixedValues(2, 'norm', hidden)),
      hcEps: 1e-6,
      normEps: 1e-6,
      output,
    })
    return { output: on.read(output), streams: on.read(streams) }
  }
}

describe.skipIf(addon === null)('native hc-head', () => {
  it('leaves the bits of the reference in the rows picked and in all streams', () => {
    if (addon === null) return
    const problems = [
      { rows: 1, streams: 4, hidden: 64, picks: [0] },
      { rows: 1, streams: 4, hidden: 4096, picks: [0] },
      { rows: 5, streams: 4, hidden: 130, picks: [4, 1, 1] },
      { rows: 3, streams: 4, hidden: 64, picks: [] },
      { rows: 40, streams: 2, hidden: 33, picks: Array.from({ length: 40 }, (_, i) => 39 - i) },
    ]
    for (const { picks, ...shape } of problems) {
      for (const pending of [false, true]) {
        const inputs = streamInputs(shape.hidden, shape)
        const label = JSON.stringify({ ...shape, picks, pending })
        expectSameBits(addon, leaving({ inputs, picks, pending }), label)
      }
    }
  })

  it('gives a pick the same bits alone as among others, on any number of threads', () => {
    if (addon === null) return
    const inputs = streamInputs(11, { rows: 21, streams: 4, hidden: 72 })
    const picks = [20, 3, 3, 7, 8, 9, 10, 11, 0]
    const together = runNative(addon, leaving({ inputs, picks, pending: true }), { threads: 5 })
    const single = runNative(addon, leaving({ inputs, picks, pending: true }), { threads: 1 })
    expect(single).toEqual(together)
    const own = { inputs: rowOf(inputs, 9), picks: [0], pending: true }
    const alone = runNative(addon, leaving(own))
    expect(alone['output']).toEqual(together['output']?.slice(5 * 72, 6 * 72))
  })

  it('refuses a pick that is no row', () => {
    if (addon === null) return
    const inputs = streamInputs(11, { rows: 2, streams: 4, hidden: 8 })
    for (const pick of [2, -1]) {
      expect(() => runNative(addon, leaving({ inputs, picks: [0, pick], pending: true }))).toThrow(
        expect.objectContaining({
          code: 'out_of_range',
          message: `cpu: run: hc-head: stream row ${pick} is outside the 2 there are`,
        }),
      )
    }
  })
})
