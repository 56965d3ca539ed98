import type { Bench, OpCase } from '../testing/case.ts'
import { type Estimate, exactly, joined, multiply, settled } from '../testing/estimate.ts'
import { generateValues, generateWeight, type ValueStyle } from '../testing/generate.ts'
import { asGiven, type Numerics } from '../testing/numerics.ts'
import { type ExpertChoice, route } from './route.ts'

// Bound of a score a = sqrt(ln(1 + e^g)): g's as of `linear`, times a' = σ(g) ÷ 2a. Experts may change
// places where score + bias overlap; weights are then those of the experts the device picked, each
// with the errors of its own score and of the sum.

interface Parameters {
  readonly rows: number
  readonly hidden: number
  readonly experts: number
  readonly picked: number
  readonly by?: 'score' | 'token'
  readonly gate?: 'bf16' | 'f32'
  readonly values?: ValueStyle
  /** Logits in a few whole numbers and equal biases: exact on every device, and full of ties. */
  readonly ties?: boolean
  /** What every logit is multiplied by. */
  readonly amplitude?: number
  readonly size?: OpCase['size']
}

const scalingFactor = 1.5

function routeCase(parameters: Parameters): OpCase {
  const { rows, hidden, experts, picked, by = 'score', gate = 'bf16', size = 'toy' } = parameters
  const { values: style = 'normal', ties = false, amplitude = 1 } = parameters
  return {
    op: 'route',
    name:
      `rows=${rows} hidden=${hidden} experts=${picked} of ${experts} by ${by} ${gate} ` +
      `${style} amplitude=${amplitude}${ties ? ' ties' : ''}`,
    size,
    prepare(bench) {
      const { random, numerics } = bench
      const values = ties
        ? Float64Array.from({ length: rows * hidden }, () => random.below(3) - 1)
        : generateValues(random, rows * hidden, style).map((value) => value * amplitude)
      const input = bench.activation('input', [rows, hidden], values)
      const weights = gateWeights(bench, parameters)
      const matrix = bench.input('gate', gate, [experts, hidden], weights)
      const vocabulary = 17
      const tokens = Array.from({ length: rows }, () => random.below(vocabulary))
      const choice = givenChoice(bench, parameters, vocabulary)
      const chosen = bench.output('experts', 'i32', [rows, picked])
      const output = bench.output('weights', 'f32', [rows, picked])
      const args = {
        input: input.tensor,
        tokens: bench.i32('tokens', [rows], tokens),
        gate: matrix.tensor,
        choice: choice.given,
        scalingFactor,
        experts: chosen.tensor,
        weights: output.tensor,
      }
      return {
        run: () => route(bench.device, args),
        check() {
          const weighed = tokens.map((token, row) => {
            const x = input.values.subarray(row * hidden, (row + 1) * hidden)
            const options = { sum: numerics.rows, form: asGiven, structured: ties }
            const logits = multiply(
              exactly(x),
              { values: matrix.values, rows: experts, width: hidden },
              options,
            )
            const scores = routerScores(ties ? exactly(logits.value) : logits, numerics)
            const picks =
              choice.bias === null
                ? tableRow(choice.table, token, picked)
                : bench.expectPicks(chosen, row, {
                    scores: ties
                      ? exact(scores, choice.bias)
                      : biased(scores, choice.bias, numerics),
                    count: picked,
                    order: 'descending',
                  })
            return shares(scores, picks, numerics)
          })
          if (choice.bias === null || rows === 0) {
            const rowsOfTable = tokens.flatMap((token) => tableRow(choice.table, token, picked))
            bench.expectValues(chosen, rowsOfTable)
          }
          bench.expectReals(output, joined(weighed))
        },
      }
    },
  }
}

function gateWeights({ random }: Bench, { hidden, experts, ties }: Parameters): ArrayLike<number> {
  if (ties !== true) return generateWeight(random, 'f32', [experts, hidden]).values
  // A few different rows, each for several experts.
  const rows = Array.from({ length: 3 }, () =>
    Array.from({ length: hidden }, () => (random.below(16) === 0 ? random.below(3) - 1 : 0)),
  )
  return Array.from({ length: experts }, () => random.pick(rows)).flat()
}

interface GivenChoice {
  readonly given: ExpertChoice
  readonly bias: Float64Array | null
  readonly table: readonly number[]
}

function givenChoice(bench: Bench, parameters: Parameters, vocabulary: number): GivenChoice {
  const { experts, picked, by = 'score', ties = false } = parameters
  const { random } = bench
  if (by === 'score') {
    const drawn = generateValues(random, experts, 'normal').map((value) => 0.3 * value)
    const bias = bench.f32('bias', [experts], ties ? drawn.fill(0.5) : drawn)
    return { given: { by, bias: bias.tensor }, bias: bias.values, table: [] }
  }
  const table = Array.from({ length: vocabulary }, () =>
    random.permutation(experts).slice(0, picked),
  )
  const tensor = bench.i32('table', [vocabulary, picked], table.flat())
  return { given: { by, table: tensor }, bias: null, table: table.flat() }
}

function tableRow(table: readonly number[], token: number, picked: number): readonly number[] {
  return table.slice(token * picked, (token + 1) * picked)
}

/** sqrt(ln(1 + e^g)), stable at both ends. */
function routerScores(given: Estimate, { elementary, step }: Numerics): Estimate {
  const logits = settled(given)
  const value = logits.value.map((g) => Math.sqrt(g > 30 ? g : Math.log1p(Math.exp(g))))
  const certain = value.map((a, i) => {
    const logit = logits.value[i] ?? 0
    const slope = 1 / (1 + Math.exp(-logit)) / (2 * a)
    const error = (logits.certain[i] ?? 0) + step * Math.abs(logit)
    return slope * error + a * (2 * elementary + 2 * step)
  })
  return { value, certain, spread: new Float64Array(value.length) }
}

function biased(scores: Estimate, bias: Float64Array, { step }: Numerics): Estimate {
  const value = scores.value.map((score, i) => score + (bias[i] ?? 0))
  const certain = scores.certain.map((error, i) => error + step * Math.abs(value[i] ?? 0))
  return { ...scores, value, certain }
}

/** Equal logits give equal scores: the same function of the same number. */
function exact(scores: Estimate, bias: Float64Array): Estimate {
  return exactly(scores.value.map((score, i) => score + (bias[i] ?? 0)))
}

/** a_i ÷ Σ a · factor over one row's picks. */
function shares(scores: Estimate, picks: readonly number[], { step }: Numerics): Estimate {
  const own = picks.map((pick) => scores.value[pick] ?? Number.NaN)
  const sum = own.reduce((total, score) => total + score, 0)
  const doubt = picks.reduce((total, pick) => total + (scores.certain[pick] ?? 0), 0) / sum
  const result = exactly(Float64Array.from(own, (score) => (score / sum) * scalingFactor))
  for (const [i, pick] of picks.entries()) {
    const ofOwn = (scores.certain[pick] ?? 0) / (scores.value[pick] ?? 0)
    const relative = ofOwn + doubt + (picks.length + 2) * step
    result.certain[i] = (result.value[i] ?? 0) * relative
  }
  return result
}

export const routeCases: readonly OpCase[] = [
  routeCase({ rows: 0, hidden: 128, experts: 8, picked: 2 }),
  routeCase({ rows: 1, hidden: 128, experts: 1, picked: 1 }),
  routeCase({ rows: 5, hidden: 256, experts: 8, picked: 2 }),
  routeCase({ rows: 5, hidden: 256, experts: 8, picked: 2, by: 'token' }),
  routeCase({ rows: 3, hidden: 72, experts: 11, picked: 11 }),
  routeCase({ rows: 33, hidden: 128, experts: 64, picked: 6 }),
  routeCase({ rows: 3, hidden: 128, experts: 50, picked: 6, gate: 'f32', values: 'outliers' }),
  routeCase({ rows: 6, hidden: 128, experts: 40, picked: 6, ties: true }),
  routeCase({ rows: 4, hidden: 64, experts: 256, picked: 8, ties: true }),
  routeCase({ rows: 4, hidden: 128, experts: 16, picked: 4, amplitude: 40 }),
  routeCase({ rows: 2, hidden: 128, experts: 16, picked: 4, by: 'token', amplitude: 12 }),
  routeCase({ rows: 2, hidden: 128, experts: 16, picked: 4, amplitude: 1e-6 }),
  routeCase({ rows: 2, hidden: 4096, experts: 256, picked: 6, size: 'real' }),
  routeCase({ rows: 1, hidden: 7168, experts: 384, picked: 6, size: 'real' }),
  routeCase({ rows: 1, hidden: 4096, experts: 256, picked: 6, by: 'token', size: 'real' }),
]
