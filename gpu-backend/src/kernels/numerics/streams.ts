import type { Tensor } from '../../device/tensor.ts'
import type { ReferenceMemory } from '../reference-memory.ts'
import { type MatrixReader, matmul } from './matmul.ts'
import { inverseRms } from './rms-norm.ts'

/** What a sub-layer leaves behind for its rows' residual streams. */
export interface StreamUpdate {
  /** `[rows, hidden]`: the sub-layer's output y. */
  readonly output: Tensor
  /** f32 `[rows, streams]`: how much of y each stream takes. */
  readonly post: Tensor
  /** f32 `[rows, streams, streams]`: C, first index source, second destination. */
  readonly mix: Tensor
}

export interface StreamShape {
  readonly rows: number
  readonly streams: number
  readonly hidden: number
}

export function streamShape(tensor: Tensor): StreamShape {
  const [rows = 0, streams = 0, hidden = 0] = tensor.shape
  return { rows, streams, hidden }
}

/**
 * X'[b] = post[b]·y + Σ_a C[a][b]·X[a], in place: C is applied transposed. Every stream of one
 * channel is read before any is written.
 */
export function updateStreams(
  memory: ReferenceMemory,
  streamsTensor: Tensor,
  update: StreamUpdate,
): void {
  const { rows, streams: count, hidden } = streamShape(streamsTensor)
  const streams = memory.f32(streamsTensor)
  const output = memory.f32(update.output)
  const post = memory.f32(update.post)
  const mix = memory.f32(update.mix)
  const old = new Float64Array(count)
  for (let row = 0; row < rows; row++) {
    const at = row * count * hidden
    for (let d = 0; d < hidden; d++) {
      const y = output[row * hidden + d] ?? 0
      for (let a = 0; a < count; a++) old[a] = streams[at + a * hidden + d] ?? 0
      for (let b = 0; b < count; b++) {
        let sum = (post[row * count + b] ?? 0) * y
        for (let a = 0; a < count; a++) {
          sum += (mix[(row * count + a) * count + b] ?? 0) * (old[a] ?? 0)
        }
        streams[at + b * hidden + d] = sum
      }
    }
  }
}

/**
 * q = (fn · z) / rms(z), z being a row's streams laid end to end: f32 `[rows, fn.rows]`. Dividing
 * after the product is the same and leaves z as it is.
 */
export function mixLogits(
  streams: Float32Array,
  rows: number,
  fn: MatrixReader,
  eps: number,
): Float32Array {
  const logits = new Float32Array(rows * fn.rows)
  const input = { values: streams, at: 0, stride: fn.width }
  matmul(input, rows, fn, { values: logits, at: 0, stride: fn.rows })
  for (let row = 0; row < rows; row++) {
    const t = inverseRms(streams, { at: row * fn.width, length: fn.width }, eps)
    for (let i = 0; i < fn.rows; i++)
      logits[row * fn.rows + i] = t * (logits[row * fn.rows + i] ?? 0)
  }
  return logits
}

/** Σ_a weights[a]·X[a] of one row, normed: out[d] = norm[d] · u[d] / rms(u). */
export function contractAndNorm(
  row: { readonly streams: Float32Array; readonly at: number; readonly weights: Float64Array },
  norm: Float32Array,
  eps: number,
  out: Float32Array,
): void {
  const hidden = norm.length
  const sum = new Float64Array(hidden)
  for (const [a, weight] of row.weights.entries()) {
    const at = row.at + a * hidden
    for (let d = 0; d < hidden; d++) sum[d] = (sum[d] ?? 0) + weight * (row.streams[at + d] ?? 0)
  }
  const inverse = inverseRms(sum, { at: 0, length: hidden }, eps)
  for (let d = 0; d < hidden; d++) out[d] = (sum[d] ?? 0) * inverse * (norm[d] ?? 0)
}
