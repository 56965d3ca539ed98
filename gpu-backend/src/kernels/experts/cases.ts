import type { LinearWeight } from '../../device/tensor.ts'
import type { Bench, OpCase, Output } from '../testing/case.ts'
import {
  allowance,
  type Estimate,
  exactly,
  joined,
  type Matrix,
  multiply,
} from '../testing/estimate.ts'
import {
  type GeneratedWeight,
  generateValues,
  generateWeight,
  isStructured,
  type ValueStyle,
  type WeightStyle,
} from '../testing/generate.ts'
import { fp8Inputs, roundBlocks } from '../testing/oracle/formats.ts'
import { roundedWithDoubt } from '../testing/oracle/rounding.ts'
import { manyRows } from '../testing/numerics.ts'
import { experts } from './experts.ts'

// Bound: gate and up as of `linear`; silu·clamp·weight passes their errors on by its derivatives. t is
// then rounded to FP8 like any input: where a boundary lies within t's bound, the step to the
// neighbouring value counts as a certain error, and so does a scale that may double. Down as of
// `linear` again, experts added up.

interface Parameters {
  readonly rows: number
  readonly hidden: number
  readonly width: number
  readonly sharedWidth?: number
  readonly experts: number
  readonly picked: number
  readonly routed?: 'fp4' | 'f8e4m3' | 'bf16'
  readonly quantise?: boolean
  readonly limit?: number
  readonly values?: ValueStyle
  readonly weights?: WeightStyle
  /** Every row to the same experts. */
  readonly crowded?: boolean
  /** The experts are some of `of`, from `first` on; of the rows `ownRows` from `firstRow` on are own. */
  readonly part?: PartOfCase
  readonly size?: OpCase['size']
}

interface PartOfCase {
  readonly first: number
  readonly of: number
  readonly firstRow: number
  readonly ownRows: number
}

function expertsCase(parameters: Parameters): OpCase {
  const { rows, hidden, width, sharedWidth = width, experts: count, picked } = parameters
  const { routed: format = 'fp4', quantise = false, limit = 10, crowded = false } = parameters
  const { values: style = 'normal', weights = 'plain', size = 'toy', part } = parameters
  return {
    op: 'experts',
    name:
      `rows=${rows} hidden=${hidden} width=${width}/${sharedWidth} experts=${picked} of ${count} ` +
      `${format} limit=${limit} ${style} ${weights}` +
      (crowded ? ' crowded' : '') +
      (part === undefined
        ? ''
        : ` from ${part.first} of ${part.of}, ${part.ownRows} rows from ${part.firstRow}`) +
      (quantise ? ' quantise' : ''),
    size,
    prepare(bench) {
      const { random } = bench
      const values = generateValues(random, rows * hidden, style)
      const input = bench.activation('input', [rows, hidden], values)
      const routed = givenExperts(bench, 'routed', format, { count, width, hidden }, weights)
      const sharedShape = { count: null, width: sharedWidth, hidden }
      const shared = givenExperts(bench, 'shared', 'f8e4m3', sharedShape, weights)
      const allExperts = part?.of ?? count
      const common = random.permutation(allExperts).slice(0, picked)
      const picks = Array.from({ length: rows }, () =>
        crowded ? common : random.permutation(allExperts).slice(0, picked),
      ).flat()
      const shares = bench.f32(
        'weights',
        [rows, picked],
        picks.map((_, at) => (at % 5 === 4 ? 0 : random.unit())),
      )
      const output = bench.outputActivation('output', [part?.ownRows ?? rows, hidden])
      const results =
        part === undefined
          ? null
          : bench.changing('results', 'f32', [rows, picked, hidden], stood(rows * picked * hidden))
      const args = {
        input: input.tensor,
        experts: bench.i32('experts', [rows, picked], picks),
        weights: shares.tensor,
        routed: routed.linears,
        shared: shared.linears,
        limit,
        quantise,
        output: output.tensor,
        ...(part === undefined || results === null
          ? {}
          : {
              part: {
                firstExpert: part.first,
                firstRow: part.firstRow,
                results: results.tensor,
              },
            }),
      }
      const many = rows >= manyRows
      const rules = { bench, limit, quantise, structured: isStructured(style), many }
      return {
        run: () => experts(bench.device, args),
        check() {
          const inputOf = (row: number): Float64Array => {
            const own = input.values.subarray(row * hidden, (row + 1) * hidden)
            return quantise ? roundBlocks(own, fp8Inputs) : own
          }
          if (part !== undefined && results !== null) {
            const ownRows = Array.from({ length: part.ownRows }, (_, i) => {
              const x = inputOf(part.firstRow + i)
              return runExpert(shared, 0, { x, weight: 1 }, rules)
            })
            bench.expectReals(output, joined(ownRows))
            expectPlaces(bench, results, (place) => {
              const expert = (picks[place] ?? 0) - part.first
              if (expert < 0 || expert >= count) return null
              const visit = {
                x: inputOf(Math.floor(place / picked)),
                weight: shares.values[place] ?? 0,
              }
              return runExpert(routed, expert, visit, rules)
            })
            return
          }
          const expected = Array.from({ length: rows }, (_, row) => {
            const x = inputOf(row)
            const parts = [runExpert(shared, 0, { x, weight: 1 }, rules)]
            for (let at = row * picked; at < (row + 1) * picked; at++) {
              const visit = { x, weight: shares.values[at] ?? 0 }
              parts.push(runExpert(routed, picks[at] ?? 0, visit, rules))
            }
            return added(parts, bench.numerics.step)
          })
          bench.expectReals(output, joined(expected))
        },
      }
    },
  }
}

/** What stands in places before: none of it a result of anything. */
function stood(count: number): Float64Array {
  return Float64Array.from({ length: count }, (_, i) => 1000 + (i % 17))
}

/** Each place has the result of its expert, and one without is as it was. */
function expectPlaces(
  bench: Bench,
  results: Output,
  resultOf: (place: number) => Estimate | null,
): void {
  const [rows = 0, picked = 0, hidden = 0] = results.tensor.shape
  const got = bench.readValues(results)
  const written = new Set<number>()
  for (let place = 0; place < rows * picked; place++) {
    const expected = resultOf(place)
    if (expected === null) continue
    written.add(place)
    const at = place * hidden
    const rules = { at, plain: 0, format: null, compact: false }
    bench.expectRow(results, got.subarray(at, at + hidden), expected, rules)
  }
  bench.expectElsewhere(results, written, hidden)
}

interface ExpertShape {
  /** Null for the shared expert, which is no stack. */
  readonly count: number | null
  readonly width: number
  readonly hidden: number
}

interface GivenExperts {
  readonly shape: ExpertShape
  readonly generated: Readonly<Record<'gate' | 'up' | 'down', GeneratedWeight>>
  readonly linears: Readonly<Record<'gate' | 'up' | 'down', LinearWeight>>
}

function givenExperts(
  bench: Bench,
  name: string,
  format: GeneratedWeight['dtype'],
  shape: ExpertShape,
  style: WeightStyle,
): GivenExperts {
  const { count, width, hidden } = shape
  const stack = count === null ? [] : [count]
  const generated = {
    gate: generateWeight(bench.random, format, [...stack, width, hidden], style),
    up: generateWeight(bench.random, format, [...stack, width, hidden], style),
    down: generateWeight(bench.random, format, [...stack, hidden, width], style),
  }
  const linears = {
    gate: bench.weight(`${name} gate`, generated.gate),
    up: bench.weight(`${name} up`, generated.up),
    down: bench.weight(`${name} down`, generated.down),
  }
  return { shape, generated, linears }
}

interface Rules {
  readonly bench: Bench
  readonly limit: number
  readonly quantise: boolean
  readonly structured: boolean
  /** As many rows as devices with another way for those want (`Numerics.rounded`). */
  readonly many: boolean
}

interface Visit {
  /** The input row as the projections see it. */
  readonly x: Float64Array
  readonly weight: number
}

function runExpert(
  { shape, generated }: GivenExperts,
  expert: number,
  { x, weight }: Visit,
  { bench, limit, quantise, structured, many }: Rules,
): Estimate {
  const { numerics } = bench
  const { width, hidden } = shape
  const matrix = (of: GeneratedWeight, rows: number, columns: number): Matrix => {
    const at = expert * rows * columns
    return { values: of.values.subarray(at, at + rows * columns), rows, width: columns }
  }
  const options = {
    sum: (quantise && many ? numerics.rounded : undefined) ?? numerics.products,
    form: numerics.inputs[generated.gate.dtype],
    structured,
  }
  const gate = multiply(exactly(x), matrix(generated.gate, width, hidden), options)
  const up = multiply(exactly(x), matrix(generated.up, width, hidden), options)
  const inner = exactly(new Float64Array(width))
  for (let i = 0; i < width; i++) {
    const g = Math.min(gate.value[i] ?? 0, limit)
    const u = Math.max(-limit, Math.min(up.value[i] ?? 0, limit))
    const silu = g / (1 + Math.exp(-g))
    inner.value[i] = silu * u * weight
    // |silu'| ≤ 1.1; the clamps pass an error on at most once.
    const ofGate = allowance(gate, i) + numerics.step * Math.abs(g)
    const carried = 1.1 * ofGate * Math.abs(u) + Math.abs(silu) * allowance(up, i)
    const rounded = Math.abs(silu * u) * (numerics.elementary + 4 * numerics.step)
    inner.certain[i] = (carried + rounded) * weight
  }
  const hiddenInput = quantise ? roundedWithDoubt(inner, fp8Inputs) : asSpread(inner)
  return multiply(hiddenInput, matrix(generated.down, hidden, width), options)
}

/** Errors of different elements of t come from different sums, so they add up as chance has it. */
function asSpread(inner: Estimate): Estimate {
  return { value: inner.value, certain: inner.spread, spread: inner.certain }
}

function added(parts: readonly Estimate[], step: number): Estimate {
  const first = parts[0]
  if (first === undefined) throw new RangeError('there is at least the shared expert')
  const sum = exactly(new Float64Array(first.value.length))
  for (let i = 0; i < sum.value.length; i++) {
    let [variance, magnitude] = [0, 0]
    for (const { value, certain, spread } of parts) {
      sum.value[i] = (sum.value[i] ?? 0) + (value[i] ?? 0)
      sum.certain[i] = (sum.certain[i] ?? 0) + (certain[i] ?? 0)
      variance += (spread[i] ?? 0) ** 2
      magnitude += Math.abs(value[i] ?? 0)
    }
    sum.spread[i] = Math.sqrt(variance)
    sum.certain[i] = (sum.certain[i] ?? 0) + parts.length * step * magnitude
  }
  return sum
}

const toy = { hidden: 256, width: 128, experts: 8, picked: 2 } as const

export const expertsCases: readonly OpCase[] = [
  expertsCase({ ...toy, rows: 0 }),
  expertsCase({ ...toy, rows: 1 }),
  expertsCase({ ...toy, rows: 1, quantise: true }),
  expertsCase({ ...toy, rows: 7, quantise: true }),
  expertsCase({ ...toy, rows: 7, values: 'outliers' }),
  expertsCase({ ...toy, rows: 5, routed: 'f8e4m3', quantise: true }),
  expertsCase({ ...toy, rows: 5, routed: 'f8e4m3' }),
  expertsCase({ ...toy, rows: 2, routed: 'bf16' }),
  expertsCase({ ...toy, rows: 3, values: 'ties8', quantise: true }),
  expertsCase({ ...toy, rows: 3, values: 'tiny', quantise: true }),
  expertsCase({ ...toy, rows: 3, values: 'zeros', quantise: true }),
  expertsCase({ ...toy, rows: 3, limit: 0.25, quantise: true }),
  expertsCase({ ...toy, rows: 3, limit: 0.25 }),
  expertsCase({ ...toy, rows: 2, weights: 'wide' }),
  expertsCase({ ...toy, rows: 40, quantise: true, crowded: true }),
  expertsCase({ ...toy, rows: 35, quantise: true }),
  expertsCase({ ...toy, rows: 70, experts: 3, quantise: true, crowded: true }),
  expertsCase({ ...toy, rows: 65, hidden: 384, quantise: true, weights: 'wide' }),
  expertsCase({ ...toy, rows: 1, part: { first: 0, of: 16, firstRow: 0, ownRows: 1 } }),
  expertsCase({
    ...toy,
    rows: 6,
    quantise: true,
    part: { first: 8, of: 16, firstRow: 2, ownRows: 3 },
  }),
  expertsCase({
    ...toy,
    rows: 36,
    experts: 5,
    quantise: true,
    part: { first: 5, of: 13, firstRow: 33, ownRows: 3 },
  }),
  expertsCase({ ...toy, rows: 4, part: { first: 8, of: 16, firstRow: 4, ownRows: 0 } }),
  expertsCase({ rows: 3, hidden: 96, width: 64, sharedWidth: 160, experts: 5, picked: 3 }),
  expertsCase({ rows: 2, hidden: 128, width: 128, experts: 1, picked: 1, quantise: true }),
  expertsCase({
    rows: 1,
    hidden: 4096,
    width: 128,
    experts: 3,
    picked: 2,
    quantise: true,
    size: 'real',
  }),
  expertsCase({
    rows: 2,
    hidden: 7168,
    width: 128,
    experts: 3,
    picked: 1,
    quantise: true,
    size: 'real',
  }),
  expertsCase({
    rows: 1,
    hidden: 256,
    width: 3072,
    experts: 2,
    picked: 1,
    quantise: true,
    size: 'real',
  }),
]
