import type { Bench, OpCase } from '../testing/case.ts'
import { type Estimate, joined } from '../testing/estimate.ts'
import { generateValues, type ValueStyle } from '../testing/generate.ts'
import { contracted, gated, mixingMatrix, mixLogits, scaled } from '../testing/oracle/streams.ts'
import { givenStreams, streamsOf } from '../testing/streams.ts'
import { hcPre } from './hc-pre.ts'

// Bound: everything behind the update is worked out from the streams the device itself left.
// Logits carry the error of a sum over S·hidden and of the root; σ passes a quarter of it on, the
// Sinkhorn iterations what their derivative says; contraction and norm come on top.

interface Parameters {
  readonly rows: number
  readonly hidden: number
  readonly streams?: number
  readonly pending?: boolean
  readonly values?: ValueStyle
  readonly iterations?: number
  readonly size?: OpCase['size']
}

const [hcEps, normEps] = [1e-6, 1e-6]

function hcPreCase(parameters: Parameters): OpCase {
  const { rows, hidden, streams = 4, pending = false, iterations = 20, size = 'toy' } = parameters
  const { values: style = 'normal' } = parameters
  return {
    op: 'hc-pre',
    name:
      `rows=${rows} streams=${streams} hidden=${hidden} iterations=${iterations} ${style}` +
      (pending ? ' pending' : ''),
    size,
    prepare(bench) {
      const given = givenStreams(bench, { rows, streams, hidden }, { style, pending })
      const weights = givenMix(bench, { streams, hidden })
      const normed = bench.outputActivation('normed', [rows, hidden])
      const post = bench.output('post', 'f32', [rows, streams])
      const mix = bench.output('mix', 'f32', [rows, streams, streams])
      const args = {
        streams: given.tensor,
        pending: given.pending,
        fn: weights.fn.tensor,
        scale: weights.scale.tensor,
        base: weights.base.tensor,
        norm: weights.norm.tensor,
        sinkhornIterations: iterations,
        hcEps,
        normEps,
        normed: normed.tensor,
        post: post.tensor,
        mix: mix.tensor,
      }
      return {
        run: () => hcPre(bench.device, args),
        check() {
          const outcome = given.settle().map((z) => enter(bench, z, weights, iterations))
          bench.expectReals(post, joined(outcome.map((row) => row.post)))
          bench.expectReals(mix, joined(outcome.map((row) => row.mix)))
          bench.expectReals(normed, joined(outcome.map((row) => row.normed)))
        },
      }
    },
  }
}

type MixInputs = ReturnType<typeof givenMix>

function givenMix(bench: Bench, shape: { readonly streams: number; readonly hidden: number }) {
  const { streams, hidden } = shape
  const width = (2 + streams) * streams
  const normal = (count: number, amplitude: number): Float64Array =>
    generateValues(bench.random, count, 'normal').map((value) => value * amplitude)
  const fnAmplitude = 1 / Math.sqrt(streams * hidden)
  return {
    streams,
    fn: bench.f32('fn', [width, streams * hidden], normal(width * streams * hidden, fnAmplitude)),
    scale: bench.f32('scale', [3], [0.9, 0.6, 1.1]),
    base: bench.f32('base', [width], normal(width, 1)),
    norm: bench.input(
      'norm',
      'bf16',
      [hidden],
      normal(hidden, 0.2).map((value) => 1 + value),
    ),
  }
}

interface Entrance {
  readonly post: Estimate
  readonly mix: Estimate
  readonly normed: Estimate
}

function enter(bench: Bench, z: Estimate, weights: MixInputs, iterations: number): Entrance {
  const { numerics } = bench
  const { streams, fn, scale, base, norm } = weights
  const rows = (2 + streams) * streams
  const logits = mixLogits(z, { values: fn.values, rows }, normEps, numerics)
  const part = (index: number, from: number, to: number): Estimate =>
    scaled(logits, { from, to }, scale.values[index] ?? 0, base.values, numerics)
  const pre = gated(part(0, 0, streams), 1, hcEps, numerics)
  const matrix = { size: streams, iterations, eps: hcEps }
  return {
    post: gated(part(1, streams, 2 * streams), 2, 0, numerics),
    mix: mixingMatrix(part(2, 2 * streams, rows), matrix, numerics),
    normed: contracted(pre, streamsOf(z, streams), { weight: norm.values, eps: normEps }, numerics),
  }
}

export const hcPreCases: readonly OpCase[] = [
  hcPreCase({ rows: 0, hidden: 64 }),
  hcPreCase({ rows: 1, hidden: 64 }),
  hcPreCase({ rows: 3, hidden: 256, pending: true }),
  hcPreCase({ rows: 2, hidden: 40, iterations: 1, pending: true }),
  hcPreCase({ rows: 2, streams: 2, hidden: 33 }),
  hcPreCase({ rows: 19, hidden: 128, pending: true }),
  hcPreCase({ rows: 2, hidden: 256, values: 'large', pending: true }),
  hcPreCase({ rows: 2, hidden: 256, values: 'outliers' }),
  hcPreCase({ rows: 2, hidden: 256, values: 'tiny' }),
  hcPreCase({ rows: 2, hidden: 64, values: 'zeros' }),
  hcPreCase({ rows: 1, hidden: 4096, pending: true, size: 'real' }),
  hcPreCase({ rows: 1, hidden: 7168, pending: true, size: 'real' }),
]
