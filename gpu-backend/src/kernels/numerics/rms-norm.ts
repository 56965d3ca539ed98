import type { Span } from './simulate.ts'

/** 1 / sqrt(mean(x²) + eps) over the span. */
export function inverseRms(values: Float32Array | Float64Array, span: Span, eps: number): number {
  let squares = 0
  for (let i = span.at; i < span.at + span.length; i++) squares += (values[i] ?? 0) ** 2
  return 1 / Math.sqrt(squares / span.length + eps)
}

/** x · weight / rms(x), in place. */
export function rmsNorm(values: Float32Array, span: Span, weight: Float32Array, eps: number): void {
  const inverse = inverseRms(values, span, eps)
  for (let i = 0; i < span.length; i++) {
    values[span.at + i] = (values[span.at + i] ?? 0) * inverse * (weight[i] ?? 0)
  }
}
