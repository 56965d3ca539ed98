import type { OpCase } from '../testing/case.ts'
import { joined } from '../testing/estimate.ts'
import { generateValues, type ValueStyle } from '../testing/generate.ts'
import { givenUpdate, updateEstimate } from '../testing/streams.ts'
import { hcPost } from './hc-post.ts'

// Bound: S + 1 products added, then one rounding to the stream's format.

interface Parameters {
  readonly rows: number
  readonly streams?: number
  readonly hidden: number
  readonly values?: ValueStyle
  readonly size?: OpCase['size']
}

function hcPostCase({ rows, streams = 4, hidden, ...rest }: Parameters): OpCase {
  const { values: style = 'normal', size = 'toy' } = rest
  return {
    op: 'hc-post',
    name: `rows=${rows} streams=${streams} hidden=${hidden} ${style}`,
    size,
    prepare(bench) {
      const shape = [rows, streams, hidden]
      const before = generateValues(bench.random, rows * streams * hidden, style)
      const output = bench.changing('streams', bench.formats.activations, shape, before)
      const update = givenUpdate(bench, { rows, streams, hidden }, style)
      const given = bench.readValues(output)
      return {
        run: () => hcPost(bench.device, { streams: output.tensor, update: update.tensors }),
        check() {
          const expected = Array.from({ length: rows }, (_, row) =>
            updateEstimate(given, update, row, bench.numerics),
          )
          bench.expectReals(output, joined(expected))
        },
      }
    },
  }
}

export const hcPostCases: readonly OpCase[] = [
  hcPostCase({ rows: 0, hidden: 64 }),
  hcPostCase({ rows: 1, hidden: 64 }),
  hcPostCase({ rows: 1, streams: 1, hidden: 5 }),
  hcPostCase({ rows: 3, streams: 2, hidden: 33 }),
  hcPostCase({ rows: 37, hidden: 256 }),
  hcPostCase({ rows: 2, hidden: 256, values: 'large' }),
  hcPostCase({ rows: 2, hidden: 256, values: 'tiny' }),
  hcPostCase({ rows: 2, hidden: 256, values: 'zeros' }),
  hcPostCase({ rows: 1, hidden: 4096, size: 'real' }),
  hcPostCase({ rows: 1, hidden: 7168, size: 'real' }),
]
