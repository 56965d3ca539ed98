import type { InputRounding, Numerics } from './numerics.ts'

/**
 * Values worked out in double precision, and how far a device may be from each.
 *
 * `certain` is a bound that nothing may exceed: rounding of the result, or errors that many values
 * share. `spread` bounds the standard deviation of what is the sum of many independent roundings;
 * there Hoeffding's inequality P(|error| > λ·spread) ≤ 2·e^(−λ²/2) makes λ = 7 a bound that a right
 * device breaks once in 10^10 values, and that is √n narrower than the worst case of n terms.
 */
export interface Estimate {
  readonly value: Float64Array
  readonly certain: Float64Array
  readonly spread: Float64Array
}

export const spreadsAllowed = 7

export function exactly(value: Float64Array): Estimate {
  return {
    value,
    certain: new Float64Array(value.length),
    spread: new Float64Array(value.length),
  }
}

/** The most a device may differ at `index`. */
export function allowance({ certain, spread }: Estimate, index: number): number {
  return (certain[index] ?? 0) + spreadsAllowed * (spread[index] ?? 0)
}

/** Everything within `allowance` as certain: for errors that go on through a function. */
export function settled(estimate: Estimate): Estimate {
  const certain = estimate.value.map((_, index) => allowance(estimate, index))
  return { ...estimate, certain, spread: new Float64Array(certain.length) }
}

/**
 * Rounding error of a sum of n terms t with |partial sums| ≤ |Σt| + 2·‖t‖₂, which holds for terms
 * in no particular order of sign: each of n additions rounds one partial sum by ≤ unit.
 */
export function sumSpread(unit: number, terms: number, value: number, squares: number): number {
  return unit * Math.sqrt(terms) * (Math.abs(value) + 2 * Math.sqrt(squares))
}

/** How far the rounded input may lie from each of `values`. */
export function inputErrors(values: Float64Array, { run, unit }: InputRounding): Float64Array {
  const errors = new Float64Array(values.length)
  if (unit === 0) return errors
  for (let from = 0; from < values.length; from += run) {
    const part = values.subarray(from, from + run)
    // Runs below 2^-100 may be cut off there: no sum of a model notices.
    const largest = part.reduce((most, value) => Math.max(most, Math.abs(value)), 2 ** -100)
    errors.fill(unit * largest, from, from + part.length)
  }
  return errors
}

export interface Matrix {
  readonly values: Float64Array | Float32Array
  readonly rows: number
  readonly width: number
}

export interface ProductOptions {
  readonly numerics: Numerics
  readonly rounding: InputRounding
  /** Values not drawn at random: roundings may all go one way, and only the worst case bounds them. */
  readonly structured: boolean
}

/**
 * y[o] = Σ_i x[i]·w[o][i] for one row. Errors: of x, given with it or made by its rounding, each
 * times its weight; and of n additions.
 */
export function multiply(x: Estimate, weight: Matrix, options: ProductOptions): Estimate {
  const { numerics, structured } = options
  const { rows, width, values: w } = weight
  const rounded = inputErrors(x.value, options.rounding)
  const certain = structured ? rounded.map((error, i) => error + (x.certain[i] ?? 0)) : x.certain
  const variance = x.spread.map((s, i) => s ** 2 + (structured ? 0 : (rounded[i] ?? 0) ** 2))
  const inexact = certain.some((error) => error > 0) || variance.some((error) => error > 0)
  const y = exactly(new Float64Array(rows))
  for (let o = 0; o < rows; o++) {
    let [sum, squares, magnitudes, fixed, varied] = [0, 0, 0, 0, 0]
    for (let i = 0, at = o * width; i < width; i++, at++) {
      const term = (x.value[i] ?? 0) * (w[at] ?? 0)
      sum += term
      squares += term * term
      magnitudes += Math.abs(term)
      if (!inexact) continue
      fixed += (certain[i] ?? 0) * Math.abs(w[at] ?? 0)
      varied += (variance[i] ?? 0) * (w[at] ?? 0) ** 2
    }
    y.value[o] = sum
    const additions = sumSpread(numerics.sum, width, sum, squares)
    y.certain[o] = fixed + (structured ? width * numerics.sum * magnitudes : 0)
    y.spread[o] = Math.sqrt(varied + (structured ? 0 : additions ** 2))
  }
  return y
}
