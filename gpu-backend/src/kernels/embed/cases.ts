import type { Bench, OpCase } from '../testing/case.ts'
import { generateValues } from '../testing/generate.ts'
import { embed } from './embed.ts'

interface Parameters {
  readonly rows: number
  readonly hidden: number
  readonly vocabulary: number
  readonly streams?: number
  readonly table?: 'bf16' | 'f32'
  readonly size?: OpCase['size']
}

/** Values a table may hold that arithmetic would change: none takes place here. */
const awkward: readonly number[] = [0, -0, 2 ** -133, -(2 ** -126), 3.3e38, -3.3e38, 2 ** -140]

function embedCase(parameters: Parameters): OpCase {
  const { rows, hidden, vocabulary, streams = 4, table = 'bf16', size = 'toy' } = parameters
  return {
    op: 'embed',
    name: `rows=${rows} hidden=${hidden} vocabulary=${vocabulary} streams=${streams} ${table}`,
    size,
    prepare(bench) {
      const ids = tokens(bench, rows, vocabulary)
      const values = generateValues(bench.random, vocabulary * hidden, 'normal')
      values.set(awkward.slice(0, hidden), 0)
      const stored = bench.input('table', table, [vocabulary, hidden], values)
      const output = bench.outputActivation('streams', [rows, streams, hidden])
      const args = {
        tokens: bench.i32('tokens', [rows], ids),
        table: stored.tensor,
        streams: output.tensor,
      }
      return {
        run: () => embed(bench.device, args),
        check() {
          const expected = ids.flatMap((id) => {
            const row = [...stored.values.subarray(id * hidden, (id + 1) * hidden)]
            return Array.from({ length: streams }, () => row).flat()
          })
          bench.expectValues(output, expected)
        },
      }
    },
  }
}

/** The first and the last id, and one twice, before any others. */
function tokens({ random }: Bench, rows: number, vocabulary: number): number[] {
  const first = [0, vocabulary - 1, vocabulary - 1]
  return Array.from({ length: rows }, (_, row) => first[row] ?? random.below(vocabulary))
}

export const embedCases: readonly OpCase[] = [
  embedCase({ rows: 0, hidden: 64, vocabulary: 5 }),
  embedCase({ rows: 1, hidden: 64, vocabulary: 1 }),
  embedCase({ rows: 3, hidden: 7, vocabulary: 11, streams: 1 }),
  embedCase({ rows: 5, hidden: 256, vocabulary: 512 }),
  embedCase({ rows: 33, hidden: 96, vocabulary: 40, table: 'f32' }),
  embedCase({ rows: 70, hidden: 200, vocabulary: 90, streams: 2 }),
  embedCase({ rows: 2, hidden: 4096, vocabulary: 9, size: 'real' }),
  embedCase({ rows: 2, hidden: 7168, vocabulary: 9, size: 'real' }),
]
