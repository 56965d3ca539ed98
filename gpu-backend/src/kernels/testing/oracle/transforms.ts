import type { Numerics } from '../numerics.ts'
import { type Estimate, exactly, positiveSumError, settled } from '../estimate.ts'

// What several ops do to a vector, straight from the formula, with the error a device may make.
// Each takes and gives an estimate, so that a fused op's bound follows from its stages.

export function squareSum(values: Float64Array): number {
  return values.reduce((sum, value) => sum + value * value, 0)
}

/** 1/sqrt(mean(x²) + eps), relative: half of the sum's error goes through the root. */
export function rootError(numerics: Numerics, terms: number): number {
  return positiveSumError(numerics.rows, terms) / 2 + numerics.elementary + 2 * numerics.step
}

/**
 * x · weight ÷ sqrt(mean(x²) + eps). Errors e of x move the root by ≤ ‖e‖ ÷ ‖x‖ (Cauchy and
 * Schwarz); three roundings follow.
 */
export function normalise(
  given: Estimate,
  weight: Float64Array | null,
  eps: number,
  numerics: Numerics,
): Estimate {
  const x = settled(given)
  const rms = Math.sqrt(squareSum(x.value) / x.value.length + eps)
  const moved = Math.sqrt(squareSum(x.certain) / x.value.length) / rms
  const relative = rootError(numerics, x.value.length) + moved + 3 * numerics.step
  const result = exactly(x.value.map((value, i) => (value * (weight?.[i] ?? 1)) / rms))
  for (const [i, value] of result.value.entries()) {
    const carried = ((x.certain[i] ?? 0) * Math.abs(weight?.[i] ?? 1)) / rms
    result.certain[i] = Math.abs(value) * relative + carried
  }
  return result
}

/**
 * The last 2·|frequencies| values as complex numbers times e^(i·angle), angle = fp32(position · f)
 * with the sign of `turn`. The angle is exact by definition; sine and cosine are not.
 */
export function turn(
  given: Estimate,
  frequencies: Float64Array,
  position: number,
  numerics: Numerics,
): Estimate {
  const x = settled(given)
  const result = { ...x, value: x.value.slice(), certain: x.certain.slice() }
  const plain = x.value.length - 2 * frequencies.length
  for (const [pair, frequency] of frequencies.entries()) {
    const [re, im] = [plain + 2 * pair, plain + 2 * pair + 1]
    const [a, b] = [x.value[re] ?? 0, x.value[im] ?? 0]
    const angle = Math.fround(Math.fround(frequency) * position)
    result.value[re] = a * Math.cos(angle) - b * Math.sin(angle)
    result.value[im] = b * Math.cos(angle) + a * Math.sin(angle)
    const error =
      (x.certain[re] ?? 0) +
      (x.certain[im] ?? 0) +
      (Math.abs(a) + Math.abs(b)) * (numerics.elementary + 2 * numerics.step)
    result.certain[re] = error
    result.certain[im] = error
  }
  return result
}

/**
 * y_i = n^-½ · Σ_j (−1)^|i ∧ j| · x_j, |i ∧ j| counting common bits. The fast transform has log2 n
 * stages, each orthogonal up to a factor, so each adds ≤ unit · ‖x‖ to any one output.
 */
export function hadamard(given: Estimate, numerics: Numerics): Estimate {
  const x = settled(given)
  const n = x.value.length
  const norm = Math.sqrt(squareSum(x.value))
  const carried = Math.sqrt(squareSum(x.certain))
  const result = exactly(new Float64Array(n))
  for (let i = 0; i < n; i++) {
    let sum = 0
    for (let j = 0; j < n; j++) sum += (oddBits(i & j) ? -1 : 1) * (x.value[j] ?? 0)
    result.value[i] = sum / Math.sqrt(n)
    result.certain[i] = carried + (Math.log2(n) + 2) * numerics.step * norm
  }
  return result
}

function oddBits(word: number): boolean {
  let odd = false
  for (let rest = word; rest !== 0; rest &= rest - 1) odd = !odd
  return odd
}

/** Angles a position, fp32: θ^(−i ÷ pairs). */
export function frequenciesOf(pairs: number, theta: number): Float64Array {
  return Float64Array.from({ length: pairs }, (_, i) => Math.fround(theta ** (-i / pairs)))
}
