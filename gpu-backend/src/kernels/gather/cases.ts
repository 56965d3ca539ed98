import { byteLength, type DType, sliceRows } from '../../device/tensor.ts'
import type { OpCase } from '../testing/case.ts'
import { gather } from './gather.ts'

/** Tensors of one dtype behind one another in a larger one, whose first and last row stay. */
function gatherCase(dtype: DType, width: number, rows: readonly number[]): OpCase {
  return {
    op: 'gather',
    name: `${dtype} of ${width}, ${rows.join(' + ')} rows`,
    size: 'toy',
    prepare(bench) {
      const rowBytes = byteLength(dtype, [width])
      const total = rows.reduce((sum, count) => sum + count, 0)
      const random = (count: number): Uint8Array => {
        const bytes = new Uint8Array(count * rowBytes)
        bench.random.fill(bytes)
        return bytes
      }
      const to = bench.changingBytes('to', dtype, [total + 2, width], random(total + 2))
      const expected = bench.read(to)
      let at = 1
      const parts = rows.map((count, i) => {
        const bytes = random(count)
        expected.set(bytes, at * rowBytes)
        const from = bench.bytes(`from ${i}`, dtype, [count, width], bytes)
        const part = { from, to: sliceRows(to.tensor, at, count) }
        at += count
        return part
      })
      return {
        run: () => gather(bench.device, { parts }),
        check: () => bench.expectBits(to, expected),
      }
    },
  }
}

export const gatherCases: readonly OpCase[] = [
  gatherCase('f32', 8, [0, 0]),
  gatherCase('f32', 8, [1]),
  gatherCase('f32', 256, [3, 0, 5, 3]),
  gatherCase('i32', 3, [7, 7, 1]),
  gatherCase('f32', 4097, [33, 2]),
  gatherCase('bf16', 31, [4, 4]),
  gatherCase(
    'i32',
    2,
    Array.from({ length: 50 }, (_, i) => 1 + (i % 3)),
  ),
]
