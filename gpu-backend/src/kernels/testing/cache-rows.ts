import { byteLength, type DType, type Tensor } from '../../device/tensor.ts'
import type { Bench, Output } from './case.ts'
import { compareReals, type Mismatch } from './compare.ts'
import { decodeValues, encodeValues } from './encoding.ts'
import { exactly } from './estimate.ts'
import {
  decodeIndexRow,
  decodeKeyRow,
  encodeIndexRow,
  encodeKeyRow,
  indexRowBytes,
  keyRowBytes,
} from './oracle/compact.ts'

/** How a cache writes a row of values down. */
export interface RowKind {
  readonly dtype: DType
  /** Length of the tensor's last extent. */
  readonly extent: number
  encode(values: Float64Array): Uint8Array
  decode(bytes: Uint8Array): Float64Array
}

export function plainRows(dtype: DType, width: number): RowKind {
  return {
    dtype,
    extent: width,
    encode: (values) => encodeValues(dtype, values),
    decode: (bytes) => decodeValues(dtype, bytes),
  }
}

export function compactKeyRows(head: number, rotated: number): RowKind {
  const row = { plain: head - rotated, rotated }
  return {
    dtype: 'u8',
    extent: keyRowBytes(row),
    encode: (values) => encodeKeyRow(values, row),
    decode: (bytes) => decodeKeyRow(bytes, row),
  }
}

export function compactIndexRows(width: number): RowKind {
  return {
    dtype: 'u8',
    extent: indexRowBytes(width),
    encode: encodeIndexRow,
    decode: (bytes) => decodeIndexRow(bytes, width),
  }
}

/** All ones: NaN in every format, as code and as scale. */
const rubbishByte = 0xff

/** The rows of one cache tensor on their way to a device: rubbish where none was put. */
export class CacheRows {
  readonly kind: RowKind
  readonly #extents: readonly [number, number]
  readonly #rowBytes: number
  readonly #bytes: Uint8Array

  constructor(kind: RowKind, extents: readonly [number, number]) {
    this.kind = kind
    this.#extents = extents
    this.#rowBytes = byteLength(kind.dtype, [kind.extent])
    this.#bytes = new Uint8Array(extents[0] * extents[1] * this.#rowBytes).fill(rubbishByte)
  }

  get shape(): readonly number[] {
    return [...this.#extents, this.kind.extent]
  }

  /** Gives back what the row then stands for. */
  put(row: number, values: Float64Array): Float64Array {
    const bytes = this.kind.encode(values)
    this.#bytes.set(bytes, row * this.#rowBytes)
    return this.kind.decode(bytes)
  }

  asInput(bench: Bench, name: string): Tensor {
    return bench.bytes(name, this.kind.dtype, this.shape, this.#bytes)
  }

  asChanging(bench: Bench, name: string): Output {
    return bench.changingBytes(name, this.kind.dtype, this.shape, this.#bytes)
  }

  /** What row `row` of an output stands for now. */
  read(bench: Bench, output: Output, row: number): Float64Array {
    const at = row * this.#rowBytes
    return this.kind.decode(bench.read(output).subarray(at, at + this.#rowBytes))
  }

  /** These rows stand for exactly these values, all others are as they were. */
  expect(bench: Bench, output: Output, written: ReadonlyMap<number, Float64Array>): void {
    for (const [row, values] of written) {
      const wrong = compareReals(this.read(bench, output, row), exactly(values), 0)
      if (wrong !== null) bench.refuse(output, inRow(wrong, row, this.kind))
    }
    bench.expectElsewhere(output, new Set(written.keys()), this.kind.extent)
  }
}

/** Compact rows have no flat index of values, so the message has the row's own. */
function inRow(wrong: Mismatch, row: number, { dtype, extent }: RowKind): Mismatch {
  const index = dtype === 'u8' || wrong.index === null ? row * extent : row * extent + wrong.index
  const place = wrong.index === null ? '' : `, value ${wrong.index} of the row`
  return { ...wrong, index, why: `${wrong.why}${place}` }
}
