import { describe, it } from 'vitest'
import { expectSameBits, mixedValues, type OpRun } from '../native/testing/both-devices.ts'
import { nativeForTests } from '../native/testing/native-addon.ts'
import { draftJoin } from './draft-join.ts'

const native = await nativeForTests()
const addon = 'addon' in native ? native.addon : null

function joining(rows: number, count: number, hidden: number): OpRun {
  return (on) => {
    const embedding = on.f32([rows, hidden], mixedValues(hidden, 'embedding', rows * hidden))
    const values = mixedValues(hidden, 'streams', rows * count * hidden)
    const streams = on.f32([rows, count, hidden], values)
    draftJoin(on.device, { embedding, streams })
    return { streams: on.read(streams) }
  }
}

describe.skipIf(addon === null)('native draft-join', () => {
  it('leaves the bits of the reference in every stream', () => {
    if (addon === null) return
    for (const [rows, count, hidden] of [
      [1, 4, 64],
      [1, 1, 1],
      [3, 2, 37],
      [70, 4, 256],
      [2, 4, 4099],
    ] as const) {
      expectSameBits(addon, joining(rows, count, hidden), `${rows} × ${count} × ${hidden}`)
    }
  })
})
