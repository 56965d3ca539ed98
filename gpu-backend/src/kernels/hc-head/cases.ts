import type { OpCase } from '../testing/case.ts'
import { joined } from '../testing/estimate.ts'
import { generateValues, type ValueStyle } from '../testing/generate.ts'
import { contracted, gated, mixLogits, scaled } from '../testing/oracle/streams.ts'
import { givenStreams, streamsOf } from '../testing/streams.ts'
import { hcHead } from './hc-head.ts'

// Bound: as of `hc-pre`, without the matrix.

interface Parameters {
  readonly rows: number
  readonly hidden: number
  readonly picks: readonly number[]
  readonly streams?: number
  readonly pending?: boolean
  readonly values?: ValueStyle
  readonly size?: OpCase['size']
}

const [hcEps, normEps] = [1e-6, 1e-6]

function hcHeadCase(parameters: Parameters): OpCase {
  const { rows, hidden, picks, streams = 4, pending = false, size = 'toy' } = parameters
  const { values: style = 'normal' } = parameters
  return {
    op: 'hc-head',
    name:
      `rows=${rows} picks=[${picks.join(',')}] streams=${streams} hidden=${hidden} ${style}` +
      (pending ? ' pending' : ''),
    size,
    prepare(bench) {
      const { random, numerics } = bench
      const given = givenStreams(bench, { rows, streams, hidden }, { style, pending })
      const width = streams * hidden
      const normal = (count: number): Float64Array => generateValues(random, count, 'normal')
      const fnValues = normal(streams * width).map((value) => value / Math.sqrt(width))
      const fn = bench.f32('fn', [streams, width], fnValues)
      const base = bench.f32('base', [streams], normal(streams))
      const scale = bench.f32('scale', [1], [0.8])
      const weight = normal(hidden).map((value) => 1 + 0.2 * value)
      const norm = bench.input('norm', 'bf16', [hidden], weight)
      const output = bench.outputActivation('output', [picks.length, hidden])
      const args = {
        streams: given.tensor,
        pending: given.pending,
        picks: bench.i32('picks', [picks.length], picks),
        fn: fn.tensor,
        scale: scale.tensor,
        base: base.tensor,
        norm: norm.tensor,
        hcEps,
        normEps,
        output: output.tensor,
      }
      return {
        run: () => hcHead(bench.device, args),
        check() {
          const all = given.settle()
          const contractions = picks.map((pick) => {
            const z = all[pick]
            if (z === undefined) throw new RangeError(`there is no row ${pick}`)
            const logits = mixLogits(z, { values: fn.values, rows: streams }, normEps, numerics)
            const range = { from: 0, to: streams }
            const gates = scaled(logits, range, scale.values[0] ?? 0, base.values, numerics)
            const weights = gated(gates, 1, hcEps, numerics)
            const closing = { weight: norm.values, eps: normEps }
            return contracted(weights, streamsOf(z, streams), closing, numerics)
          })
          bench.expectReals(output, joined(contractions))
        },
      }
    },
  }
}

export const hcHeadCases: readonly OpCase[] = [
  hcHeadCase({ rows: 0, picks: [], hidden: 64 }),
  hcHeadCase({ rows: 1, picks: [0], hidden: 64 }),
  hcHeadCase({ rows: 3, picks: [], hidden: 64, pending: true }),
  hcHeadCase({ rows: 5, picks: [4, 1, 1], hidden: 256, pending: true }),
  hcHeadCase({ rows: 4, picks: [0, 3], streams: 2, hidden: 33 }),
  hcHeadCase({ rows: 21, picks: [20, 0, 7, 8, 9], hidden: 96, pending: true }),
  hcHeadCase({ rows: 2, picks: [1], hidden: 256, values: 'large' }),
  hcHeadCase({ rows: 2, picks: [1], hidden: 256, values: 'tiny', pending: true }),
  hcHeadCase({ rows: 2, picks: [0, 1], hidden: 64, values: 'zeros' }),
  hcHeadCase({ rows: 2, picks: [1], hidden: 4096, pending: true, size: 'real' }),
  hcHeadCase({ rows: 1, picks: [0], hidden: 7168, size: 'real' }),
]
