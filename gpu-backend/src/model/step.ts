import { strict as assert } from 'node:assert'
import type { Device } from '../device/device.ts'
import type { Tensor } from '../device/tensor.ts'
import { type Batch, rowFieldCount } from '../kernels/batch.ts'
import type { CachedSequence } from './cache.ts'
import type { Scratch } from './scratch.ts'

/** Consecutive rows of one sequence in a step. */
export interface StepSegment {
  readonly sequence: CachedSequence
  readonly tokens: Int32Array
  /** Position of the first token. */
  readonly start: number
  /** Row of the first token in the step. */
  readonly firstRow: number
}

/** Lays segments out one after the other. */
export function layOut(segments: readonly Omit<StepSegment, 'firstRow'>[]): readonly StepSegment[] {
  let firstRow = 0
  return segments.map((segment) => {
    const placed = { ...segment, firstRow }
    firstRow += segment.tokens.length
    return placed
  })
}

/** The step's descriptors on the device. `prefix` keeps two kinds of steps out of one another's. */
export function writeBatch(
  device: Device,
  scratch: Scratch,
  segments: readonly StepSegment[],
  pages: Tensor,
  prefix: string,
): Batch {
  const rows = segments.reduce((count, { tokens }) => count + tokens.length, 0)
  const tokens = new Int32Array(rows)
  const fields = new Int32Array(rows * rowFieldCount)
  for (const segment of segments) {
    tokens.set(segment.tokens, segment.firstRow)
    const { start, sequence } = segment
    const end = start + segment.tokens.length
    for (let i = 0; i < segment.tokens.length; i++) {
      const at = (segment.firstRow + i) * rowFieldCount
      fields.set([start + i, sequence.slot, start, end], at)
    }
  }
  return {
    tokens: writeI32(device, scratch.take(`${prefix} tokens`, 'i32', [rows]), tokens),
    rows: writeI32(device, scratch.take(`${prefix} rows`, 'i32', [rows, rowFieldCount]), fields),
    pages,
  }
}

export function writeI32(device: Device, tensor: Tensor, values: Int32Array): Tensor {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
  if (bytes.length > 0) device.write(tensor.buffer, tensor.byteOffset, bytes)
  return tensor
}

/** Rows of an f32 `[rows, width]` tensor, each in memory of its own. */
export function readF32Rows(device: Device, tensor: Tensor): readonly Float32Array[] {
  const [rows = 0, width = 0] = tensor.shape
  assert.equal(tensor.dtype, 'f32', 'rows are read as they are')
  return Array.from({ length: rows }, (_, row) => {
    const values = new Float32Array(width)
    const offset = tensor.byteOffset + row * values.byteLength
    device.read(tensor.buffer, offset, new Uint8Array(values.buffer))
    return values
  })
}
