import { byteLength, type DType, sliceRows } from '../../device/tensor.ts'
import type { Bench, OpCase } from '../testing/case.ts'
import { copy } from './copy.ts'

const dtypes: readonly DType[] = ['f32', 'bf16', 'i32', 'i64', 'f8e4m3', 'e8m0', 'fp4']

/** Any bytes, NaN of every kind included: a copy moves bits and looks at none. */
function whole(dtype: DType, shape: readonly number[]): OpCase {
  return {
    op: 'copy',
    name: `${dtype} [${shape.join(', ')}]`,
    size: 'toy',
    prepare(bench) {
      const bytes = randomBytes(bench, byteLength(dtype, shape))
      const from = bench.bytes('from', dtype, shape, bytes)
      const to = bench.output('to', dtype, shape)
      return {
        run: () => copy(bench.device, { from, to: to.tensor }),
        check: () => bench.expectBits(to, bytes),
      }
    },
  }
}

/** Rows of one tensor to other rows of another; what lies round them stays. */
function rowsOfLarger(dtype: DType, width: number): OpCase {
  return {
    op: 'copy',
    name: `${dtype} rows 2…4 of 7 to rows 1…3 of 5, ${width} wide`,
    size: 'toy',
    prepare(bench) {
      const row = byteLength(dtype, [width])
      const source = randomBytes(bench, 7 * row)
      const from = bench.bytes('from', dtype, [7, width], source)
      const to = bench.changingBytes('to', dtype, [5, width], randomBytes(bench, 5 * row))
      const expected = bench.read(to)
      expected.set(source.subarray(2 * row, 5 * row), row)
      const args = { from: sliceRows(from, 2, 3), to: sliceRows(to.tensor, 1, 3) }
      return {
        run: () => copy(bench.device, args),
        check: () => bench.expectBits(to, expected),
      }
    },
  }
}

function randomBytes(bench: Bench, count: number): Uint8Array {
  const bytes = new Uint8Array(count)
  bench.random.fill(bytes)
  return bytes
}

export const copyCases: readonly OpCase[] = [
  whole('f32', [0, 8]),
  ...dtypes.map((dtype) => whole(dtype, [2])),
  ...dtypes.map((dtype) => whole(dtype, [3, 10])),
  whole('f8e4m3', [1]),
  whole('e8m0', [4097]),
  whole('bf16', [33, 31]),
  whole('f32', [65, 4096]),
  rowsOfLarger('f32', 5),
  rowsOfLarger('bf16', 3),
  rowsOfLarger('fp4', 6),
]
