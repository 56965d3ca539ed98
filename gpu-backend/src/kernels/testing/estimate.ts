import type { InputForm, Sum } from './numerics.ts'
import { roundBf16 } from './oracle/formats.ts'

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
 * Additions that follow one another, as far as their errors go: n terms in runs of r make r
 * additions to one run's sum, and n ÷ r to the sum of runs.
 */
function additionsInLine(sum: Sum, terms: number): number {
  const run = Math.min(sum.run, terms)
  return Math.sqrt(run) + Math.sqrt(terms / run)
}

/**
 * Rounding error of a sum of n terms t with |partial sums| ≤ |Σt| + 2·‖t‖₂, which holds for terms
 * in no particular order of sign. Each addition rounds a partial sum by ≤ unit: √n of that for n
 * additions in line, and with runs √r of a run's share of ‖t‖ for n ÷ r runs, which is √r of ‖t‖.
 */
export function sumSpread(
  sum: Sum,
  terms: number,
  total: { readonly value: number; readonly squares: number },
): number {
  const partial = Math.abs(total.value) + 2 * Math.sqrt(total.squares)
  return sum.unit * additionsInLine(sum, terms) * partial
}

/** The same where terms have one sign, relative and certain: partial sums are below the sum. */
export function positiveSumError(sum: Sum, terms: number): number {
  return spreadsAllowed * sum.unit * additionsInLine(sum, terms)
}

/** How far each of `values` may be off in the form the device uses. */
function inputErrors(values: Float64Array, form: InputForm): Float64Array {
  switch (form.as) {
    case 'given':
      return new Float64Array(values.length)
    case 'bfloat16':
      return values.map((value) => Math.abs(roundBf16(value) - value))
    case 'integers':
      return integerErrors(values, form)
  }
}

function integerErrors(
  values: Float64Array,
  { run, unit }: { readonly run: number; readonly unit: number },
): Float64Array {
  const errors = new Float64Array(values.length)
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
  readonly sum: Sum
  readonly form: InputForm
  /** Values not drawn at random: roundings may all go one way, and only the worst case bounds them. */
  readonly structured: boolean
}

/**
 * y[o] = Σ_i x[i]·w[o][i] for one row. Errors: of x, given with it or made by its rounding, each
 * times its weight; and of n additions.
 */
export function multiply(x: Estimate, weight: Matrix, options: ProductOptions): Estimate {
  const { structured } = options
  const { rows, width, values: w } = weight
  const rounded = inputErrors(x.value, options.form)
  const certain = structured ? rounded.map((error, i) => error + (x.certain[i] ?? 0)) : x.certain
  const variance = x.spread.map((s, i) => s ** 2 + (structured ? 0 : (rounded[i] ?? 0) ** 2))
  const inexact = certain.some((error) => error > 0) || variance.some((error) => error > 0)
  const y = exactly(new Float64Array(rows))
  for (let o = 0; o < rows; o++) {
    const { value, squares, magnitudes } = sums(x.value, w, o * width)
    const additions = sumSpread(options.sum, width, { value, squares })
    y.value[o] = value
    if (structured) y.certain[o] = width * options.sum.unit * magnitudes
    else y.spread[o] = additions
    if (inexact) addInputErrors(y, o, { certain, variance }, w, o * width)
  }
  return y
}

interface TermSums {
  readonly value: number
  readonly squares: number
  readonly magnitudes: number
}

/** Of the terms x[i]·w[at + i]. */
function sums(x: Float64Array, w: Matrix['values'], at: number): TermSums {
  let [value, squares, magnitudes] = [0, 0, 0]
  for (let i = 0; i < x.length; i++) {
    const term = (x[i] ?? 0) * (w[at + i] ?? 0)
    value += term
    squares += term * term
    magnitudes += Math.abs(term)
  }
  return { value, squares, magnitudes }
}

interface InputErrors {
  readonly certain: Float64Array
  readonly variance: Float64Array
}

/** What errors of the inputs do to output `o`, whose weights are `w[at …]`. */
function addInputErrors(
  y: Estimate,
  o: number,
  { certain, variance }: InputErrors,
  w: Matrix['values'],
  at: number,
): void {
  let [fixed, varied] = [0, 0]
  for (let i = 0; i < certain.length; i++) {
    const weight = Math.abs(w[at + i] ?? 0)
    fixed += (certain[i] ?? 0) * weight
    varied += (variance[i] ?? 0) * weight * weight
  }
  y.certain[o] = (y.certain[o] ?? 0) + fixed
  y.spread[o] = Math.hypot(y.spread[o] ?? 0, Math.sqrt(varied))
}

/** Estimates of neighbouring values as one. */
export function joined(parts: readonly Estimate[]): Estimate {
  const length = parts.reduce((sum, { value }) => sum + value.length, 0)
  const whole = exactly(new Float64Array(length))
  let at = 0
  for (const { value, certain, spread } of parts) {
    whole.value.set(value, at)
    whole.certain.set(certain, at)
    whole.spread.set(spread, at)
    at += value.length
  }
  return whole
}

export function slice({ value, certain, spread }: Estimate, from: number, to: number): Estimate {
  return {
    value: value.subarray(from, to),
    certain: certain.subarray(from, to),
    spread: spread.subarray(from, to),
  }
}
