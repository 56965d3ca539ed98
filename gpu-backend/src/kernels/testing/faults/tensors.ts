import type { Tensor } from '../../../device/tensor.ts'

// Rearrangements that mistakes are made of.

/** Rows of `width` values moved down by `by`, the last coming first. */
export function rolled(values: Float64Array, width: number, by = 1): Float64Array {
  const shift = (by * width) % Math.max(1, values.length)
  return Float64Array.from([
    ...values.subarray(values.length - shift),
    ...values.subarray(0, values.length - shift),
  ])
}

/** Square matrices of `size`, each transposed. */
export function transposed(values: Float64Array, size: number): Float64Array {
  return values.map((_, i) => {
    const [row, column] = [Math.floor(i / size) % size, i % size]
    return values[i - row * size - column + column * size + row] ?? 0
  })
}

/** Rows of `2·half` values, the two halves of each exchanged. */
export function halvesSwapped(values: Float64Array, half: number): Float64Array {
  return values.map((_, i) => values[i % (2 * half) < half ? i + half : i - half] ?? 0)
}

/** Two codes a byte in the other order. */
export function nibblesSwapped(bytes: Uint8Array): Uint8Array {
  return bytes.map((byte) => ((byte & 15) << 4) | (byte >> 4))
}

/** Row-major index of the last extent's length. */
export function lastExtent({ shape }: Tensor): number {
  return shape.at(-1) ?? 1
}
