import { describe, expect, it } from 'vitest'
import { expectSameBits, type OpRun, runNative } from '../native/testing/both-devices.ts'
import { nativeForTests } from '../native/testing/native-addon.ts'
import {
  placeStreams,
  placeUpdate,
  rowOf,
  type StreamInputs,
  streamInputs,
} from '../native/testing/stream-inputs.ts'
import { hcPost } from './hc-post.ts'

const native = await nativeForTests()
const addon = 'addon' in native ? native.addon : null

function updating(inputs: StreamInputs): OpRun {
  return (on) => {
    const streams = placeStreams(on, inputs)
    hcPost(on.device, { streams, update: placeUpdate(on, inputs) })
    return { streams: on.read(streams) }
  }
}

describe.skipIf(addon === null)('native hc-post', () => {
  // Products of two fp32 are exact in double, and the sums run in the reference's order.
  it('leaves the bits of the reference, whatever the number of rows, streams and channels', () => {
    if (addon === null) return
    for (const [rows, streams, hidden] of [
      [1, 4, 64],
      [1, 4, 4096],
      [3, 4, 257],
      [70, 4, 96],
      [2, 1, 33],
      [5, 2, 7],
      [2, 3, 1100],
      [1, 16, 65],
    ] as const) {
      const inputs = streamInputs(rows + hidden, { rows, streams, hidden })
      expectSameBits(addon, updating(inputs), JSON.stringify({ rows, streams, hidden }))
    }
  })

  it('gives a row the same bits alone as among others, on any number of threads', () => {
    if (addon === null) return
    const inputs = streamInputs(7, { rows: 9, streams: 4, hidden: 1030 })
    const together = runNative(addon, updating(inputs), { threads: 5 })['streams']
    expect(runNative(addon, updating(inputs), { threads: 1 })['streams']).toEqual(together)
    const alone = runNative(addon, updating(rowOf(inputs, 5)))['streams']
    expect(alone).toEqual(together?.slice(5 * 4120, 6 * 4120))
  })

  it('keeps NaN and infinity in their row', () => {
    if (addon === null) return
    const inputs = streamInputs(3, { rows: 3, streams: 4, hidden: 64 })
    inputs.values[256 + 130] = Number.NaN
    inputs.output[64 + 7] = Infinity
    expectSameBits(addon, updating(inputs), 'no numbers')
  })

  it('refuses more streams than it has room for', () => {
    if (addon === null) return
    const inputs = streamInputs(3, { rows: 1, streams: 17, hidden: 8 })
    expect(() => runNative(addon, updating(inputs))).toThrow(
      expect.objectContaining({
        code: 'unsupported_op',
        message: 'cpu: run: hc-post: 17 streams are more than 16',
      }),
    )
  })
})
