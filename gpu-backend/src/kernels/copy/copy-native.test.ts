import { describe, expect, it } from 'vitest'
import { sliceRows } from '../../device/tensor.ts'
import { type OpRun, runNative, testedIsas } from '../native/testing/both-devices.ts'
import { nativeForTests } from '../native/testing/native-addon.ts'
import { Random } from '../testing/random.ts'
import { copy } from './copy.ts'

const native = await nativeForTests()
const addon = 'addon' in native ? native.addon : null

/** Rows of any bytes from a larger tensor into a larger one, read as integers. */
function copying(width: number, rows: number): OpRun {
  return (on) => {
    const random = new Random(width, 'bytes')
    const words = Array.from({ length: (rows + 2) * width }, () => random.bits() | 0)
    const from = on.i32([rows + 2, width], words)
    const to = on.i32([rows + 1, width], new Int32Array((rows + 1) * width).fill(-7))
    copy(on.device, { from: sliceRows(from, 2, rows), to: sliceRows(to, 1, rows) })
    return { from: words.slice(2 * width), to: on.read(to) }
  }
}

describe.skipIf(addon === null)('native copy', () => {
  it('moves every byte and no other, in one piece or in several', () => {
    if (addon === null) return
    for (const [width, rows] of [
      [1, 1],
      [3, 5],
      [65_536, 1],
      [65_537, 2],
      [1000, 333],
    ] as const) {
      for (const isa of testedIsas) {
        const { from = [], to = [] } = runNative(addon, copying(width, rows), { isa, threads: 3 })
        expect(to.slice(0, width).every((word) => word === -7)).toBe(true)
        expect(to.slice(width)).toEqual(from)
      }
    }
  })
})
