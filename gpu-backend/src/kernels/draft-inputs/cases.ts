import type { OpCase } from '../testing/case.ts'
import { exactly, joined } from '../testing/estimate.ts'
import { generateValues, type ValueStyle } from '../testing/generate.ts'
import { normalise } from '../testing/oracle/transforms.ts'
import { draftInputs } from './draft-inputs.ts'

// Bound: a root over hidden values and three roundings, for the embedding and for each stream.

interface Parameters {
  readonly rows: number
  readonly sourceRows: number
  readonly streams?: number
  readonly hidden: number
  readonly vocabulary?: number
  readonly values?: ValueStyle
  readonly size?: OpCase['size']
}

const eps = 1e-6

function draftInputsCase(parameters: Parameters): OpCase {
  const { rows, sourceRows, streams = 4, hidden, vocabulary = 13, size = 'toy' } = parameters
  const { values: style = 'normal' } = parameters
  return {
    op: 'draft-inputs',
    name:
      `rows=${rows} of ${sourceRows} streams=${streams} hidden=${hidden} ` +
      `vocabulary=${vocabulary} ${style}`,
    size,
    prepare(bench) {
      const { random, numerics } = bench
      const drawn = (count: number): Float64Array => generateValues(random, count, style)
      const table = bench.input('table', 'bf16', [vocabulary, hidden], drawn(vocabulary * hidden))
      const source = bench.activation(
        'source',
        [sourceRows, streams, hidden],
        drawn(sourceRows * streams * hidden),
      )
      const norm = (name: string) => {
        const weight = generateValues(random, hidden, 'normal').map((value) => 1 + 0.2 * value)
        return bench.input(name, 'bf16', [hidden], weight)
      }
      const [embeddingNorm, streamNorm] = [norm('embeddingNorm'), norm('streamNorm')]
      // Rows follow in descending order, so that a row's own number is rarely its source's.
      const picks = Array.from(
        { length: rows },
        (_, row) => (sourceRows * 2 - 1 - row) % sourceRows,
      )
      const tokens = picks.map((_, row) => (row === 0 ? vocabulary - 1 : random.below(vocabulary)))
      const embedding = bench.outputActivation('embedding', [rows, hidden])
      const output = bench.outputActivation('streams', [rows, streams, hidden])
      const args = {
        tokens: bench.i32('tokens', [rows], tokens),
        table: table.tensor,
        source: source.tensor,
        picks: bench.i32('picks', [rows], picks),
        embeddingNorm: embeddingNorm.tensor,
        streamNorm: streamNorm.tensor,
        eps,
        embedding: embedding.tensor,
        streams: output.tensor,
      }
      const normed = (from: Float64Array, row: number, weight: Float64Array) =>
        normalise(exactly(from.subarray(row * hidden, (row + 1) * hidden)), weight, eps, numerics)
      return {
        run: () => draftInputs(bench.device, args),
        check() {
          const embedded = tokens.map((token) => normed(table.values, token, embeddingNorm.values))
          bench.expectReals(embedding, joined(embedded))
          const followed = picks.flatMap((pick) =>
            Array.from({ length: streams }, (_, stream) =>
              normed(source.values, pick * streams + stream, streamNorm.values),
            ),
          )
          bench.expectReals(output, joined(followed))
        },
      }
    },
  }
}

export const draftInputsCases: readonly OpCase[] = [
  draftInputsCase({ rows: 0, sourceRows: 2, hidden: 64 }),
  draftInputsCase({ rows: 1, sourceRows: 1, hidden: 64 }),
  draftInputsCase({ rows: 2, sourceRows: 5, streams: 1, hidden: 35 }),
  draftInputsCase({ rows: 7, sourceRows: 4, hidden: 256, vocabulary: 512 }),
  draftInputsCase({ rows: 33, sourceRows: 40, hidden: 96 }),
  draftInputsCase({ rows: 2, sourceRows: 3, hidden: 128, values: 'large' }),
  draftInputsCase({ rows: 2, sourceRows: 3, hidden: 128, values: 'tiny' }),
  draftInputsCase({ rows: 2, sourceRows: 3, hidden: 128, values: 'zeros' }),
  draftInputsCase({ rows: 1, sourceRows: 2, hidden: 4096, size: 'real' }),
  draftInputsCase({ rows: 1, sourceRows: 2, hidden: 7168, size: 'real' }),
]
