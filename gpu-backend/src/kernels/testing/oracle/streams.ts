import { type Estimate, exactly, multiply, settled } from '../estimate.ts'
import { asGiven, type Numerics } from '../numerics.ts'
import { normalise, rootError, squareSum } from './transforms.ts'

// Hyper-connections of one row, from the formulas of the model: streams X[a], a = 0 … S − 1.

/** Rows of a matrix as arrays: the oracle's way of writing small matrices. */
export type Rows = readonly Float64Array[]

export function rowsOf(values: Float64Array, count: number): Rows {
  const width = values.length / count
  return Array.from({ length: count }, (_, row) => values.subarray(row * width, (row + 1) * width))
}

/** X'[b] = post[b]·y + Σ_a C[a][b]·X[a]: S + 1 terms, each addition rounds at most all of them. */
export function updated(
  x: Rows,
  update: { readonly y: Float64Array; readonly post: Float64Array; readonly mix: Rows },
  numerics: Numerics,
): Estimate {
  const hidden = update.y.length
  const result = exactly(new Float64Array(x.length * hidden))
  for (const [b, post] of update.post.entries()) {
    for (let d = 0; d < hidden; d++) {
      const terms = [post * (update.y[d] ?? 0)]
      for (const [a, stream] of x.entries()) {
        terms.push((update.mix[a]?.[b] ?? 0) * (stream[d] ?? 0))
      }
      result.value[b * hidden + d] = terms.reduce((sum, term) => sum + term, 0)
      const magnitude = terms.reduce((sum, term) => sum + Math.abs(term), 0)
      result.certain[b * hidden + d] = (terms.length + 1) * numerics.rows.unit * magnitude
    }
  }
  return result
}

/** Rows of `fn` times z ÷ rms(z), z being the streams end to end; errors as certain. */
export function mixLogits(
  z: Estimate,
  fn: { readonly values: Float64Array; readonly rows: number },
  eps: number,
  numerics: Numerics,
): Estimate {
  const width = z.value.length
  const rms = Math.sqrt(squareSum(z.value) / width + eps)
  const product = settled(
    multiply(z, { ...fn, width }, { sum: numerics.rows, form: asGiven, structured: false }),
  )
  const carried = Math.sqrt(squareSum(z.certain) / width) / rms
  const relative = rootError(numerics, width) + carried + numerics.step
  const value = product.value.map((sum) => sum / rms)
  const certain = product.certain.map(
    (error, i) => error / rms + Math.abs(value[i] ?? 0) * relative,
  )
  return { value, certain, spread: product.spread }
}

/** logit·scale + base, one of a few. */
export function scaled(
  logits: Estimate,
  range: { readonly from: number; readonly to: number },
  scale: number,
  base: Float64Array,
  numerics: Numerics,
): Estimate {
  const { from, to } = range
  const value = logits.value
    .subarray(from, to)
    .map((logit, i) => logit * scale + (base[from + i] ?? 0))
  const certain = logits.certain.subarray(from, to).map((error, i) => {
    const terms = Math.abs((logits.value[from + i] ?? 0) * scale) + Math.abs(base[from + i] ?? 0)
    return error * Math.abs(scale) + 2 * numerics.step * terms
  })
  return { value, certain, spread: new Float64Array(to - from) }
}

/** factor·σ(x) + eps; σ' ≤ ¼, and four roundings of a value below 1. */
export function gated(x: Estimate, factor: number, eps: number, numerics: Numerics): Estimate {
  const value = x.value.map((logit) => factor / (1 + Math.exp(-logit)) + eps)
  const certain = x.certain.map((error, i) => {
    return (factor * error) / 4 + (value[i] ?? 0) * (numerics.elementary + 4 * numerics.step)
  })
  return { value, certain, spread: x.spread }
}

/** Alternating normalisation of e^A: rows by softmax, then columns and rows in turn, columns last. */
export function doublyStochastic(a: Rows, iterations: number, eps: number): number[][] {
  const columns = (m: number[][]): number[][] => {
    const sums = m[0]?.map((_, b) => m.reduce((sum, row) => sum + (row[b] ?? 0), eps)) ?? []
    return m.map((row) => row.map((value, b) => value / (sums[b] ?? 0)))
  }
  const rows = (m: number[][]): number[][] =>
    m.map((row) => {
      const sum = row.reduce((total, value) => total + value, eps)
      return row.map((value) => value / sum)
    })
  const softmax = a.map((row) => {
    const top = Math.max(...row)
    const total = row.reduce((sum, value) => sum + Math.exp(value - top), 0)
    return Array.from(row, (value) => Math.exp(value - top) / total + eps)
  })
  let matrix = columns(softmax)
  for (let round = 1; round < iterations; round++) matrix = columns(rows(matrix))
  return matrix
}

/**
 * The mixing matrix of logits A. What an error of A does is found by moving each logit a little;
 * every division rounds, and no later one makes that larger.
 */
export function mixingMatrix(
  a: Estimate,
  options: { readonly size: number; readonly iterations: number; readonly eps: number },
  numerics: Numerics,
): Estimate {
  const { size, iterations, eps } = options
  const at = (logits: Float64Array): Float64Array =>
    Float64Array.from(doublyStochastic(rowsOf(logits, size), iterations, eps).flat())
  const value = at(a.value)
  const roundings = 2 * iterations * (size + 2) * numerics.step + numerics.elementary
  const certain = value.map((entry) => entry * roundings)
  const move = 2 ** -20
  for (const [logit, error] of a.certain.entries()) {
    const nudged = a.value.slice()
    nudged[logit] = (nudged[logit] ?? 0) + move
    for (const [i, entry] of at(nudged).entries()) {
      certain[i] = (certain[i] ?? 0) + (Math.abs(entry - (value[i] ?? 0)) / move) * error
    }
  }
  return { value, certain, spread: new Float64Array(value.length) }
}

/** rmsnorm(Σ_a w[a]·X[a]). */
export function contracted(
  weights: Estimate,
  x: readonly Estimate[],
  norm: { readonly weight: Float64Array; readonly eps: number },
  numerics: Numerics,
): Estimate {
  const sum = exactly(new Float64Array(norm.weight.length))
  for (const [a, stream] of x.entries()) {
    const weight = weights.value[a] ?? 0
    const doubt = (weights.certain[a] ?? 0) + (x.length + 1) * numerics.rows.unit * weight
    for (const [d, value] of stream.value.entries()) {
      sum.value[d] = (sum.value[d] ?? 0) + weight * value
      const error = doubt * Math.abs(value) + weight * (stream.certain[d] ?? 0)
      sum.certain[d] = (sum.certain[d] ?? 0) + error
    }
  }
  return normalise(sum, norm.weight, norm.eps, numerics)
}
