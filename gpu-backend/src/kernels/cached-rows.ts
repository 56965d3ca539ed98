import type { Tensor } from '../device/tensor.ts'
import {
  type CompactLayout,
  compactRowBytes,
  decodeRow,
  encodeRow,
  rowWidth,
} from './numerics/compact-rows.ts'
import type { ReferenceMemory } from './reference-memory.ts'

/** Rows of a cache tensor as values, whatever they are stored as; numbered through all extents. */
export interface CachedRows {
  read(row: number, into: Float32Array): void
  write(row: number, values: Float32Array): void
}

export function cachedRows(
  memory: ReferenceMemory,
  tensor: Tensor,
  layout: CompactLayout,
): CachedRows {
  if (tensor.dtype !== 'u8') return plainRows(memory.f32(tensor), rowWidth(layout))
  const bytes = memory.u8(tensor)
  const each = compactRowBytes(layout)
  const find = (row: number): Uint8Array => bytes.subarray(row * each, (row + 1) * each)
  return {
    read: (row, into) => decodeRow(layout, find(row), into),
    write: (row, values) => encodeRow(layout, values, find(row)),
  }
}

function plainRows(values: Float32Array, width: number): CachedRows {
  return {
    read: (row, into) => into.set(values.subarray(row * width, (row + 1) * width)),
    write: (row, source) => values.set(source, row * width),
  }
}
