import type { Span } from './simulate.ts'

/**
 * Walsh–Hadamard transform in natural order, scaled by length^-0.5 so that it is orthogonal. In
 * place; the length is a power of two.
 */
export function walshHadamard(values: Float32Array, span: Span): void {
  const { at, length } = span
  const work = Float64Array.from(values.subarray(at, at + length))
  for (let distance = 1; distance < length; distance *= 2) {
    for (let i = 0; i < length; i++) {
      if ((i & distance) !== 0) continue
      const a = work[i] ?? 0
      const b = work[i + distance] ?? 0
      work[i] = a + b
      work[i + distance] = a - b
    }
  }
  const scale = length ** -0.5
  for (let i = 0; i < length; i++) values[at + i] = (work[i] ?? 0) * scale
}
