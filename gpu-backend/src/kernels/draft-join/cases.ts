import type { OpCase } from '../testing/case.ts'
import { exactly } from '../testing/estimate.ts'
import { generateValues, type ValueStyle } from '../testing/generate.ts'
import { draftJoin } from './draft-join.ts'

// Bound: one addition of two stored values, rounded once to the stream's format.

interface Parameters {
  readonly rows: number
  readonly streams?: number
  readonly hidden: number
  readonly values?: ValueStyle
  readonly size?: OpCase['size']
}

function draftJoinCase({ rows, streams = 4, hidden, ...rest }: Parameters): OpCase {
  const { values: style = 'normal', size = 'toy' } = rest
  return {
    op: 'draft-join',
    name: `rows=${rows} streams=${streams} hidden=${hidden} ${style}`,
    size,
    prepare(bench) {
      const { random, formats } = bench
      const shape = [rows, streams, hidden]
      const values = generateValues(random, rows * streams * hidden, style)
      const output = bench.changing('streams', formats.activations, shape, values)
      const before = bench.readValues(output)
      const given = generateValues(random, rows * hidden, style)
      const embedding = bench.activation('embedding', [rows, hidden], given)
      return {
        run: () => draftJoin(bench.device, { embedding: embedding.tensor, streams: output.tensor }),
        check() {
          const sums = before.map((value, i) => {
            const row = Math.floor(i / (streams * hidden))
            return value + (embedding.values[row * hidden + (i % hidden)] ?? 0)
          })
          bench.expectReals(output, exactly(sums))
        },
      }
    },
  }
}

export const draftJoinCases: readonly OpCase[] = [
  draftJoinCase({ rows: 0, hidden: 64 }),
  draftJoinCase({ rows: 1, hidden: 64 }),
  draftJoinCase({ rows: 1, streams: 1, hidden: 1 }),
  draftJoinCase({ rows: 3, streams: 2, hidden: 37 }),
  draftJoinCase({ rows: 33, hidden: 256 }),
  draftJoinCase({ rows: 2, hidden: 128, values: 'large' }),
  draftJoinCase({ rows: 2, hidden: 128, values: 'tiny' }),
  draftJoinCase({ rows: 2, hidden: 128, values: 'zeros' }),
  draftJoinCase({ rows: 1, hidden: 4096, size: 'real' }),
  draftJoinCase({ rows: 1, hidden: 7168, size: 'real' }),
]
