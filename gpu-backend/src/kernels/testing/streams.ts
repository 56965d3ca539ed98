import type { StreamShape, StreamUpdate } from '../numerics/streams.ts'
import { type Bench, type Output, storageUnit } from './case.ts'
import { type Estimate, exactly, joined, slice } from './estimate.ts'
import { generateValues, type ValueStyle } from './generate.ts'
import type { Numerics } from './numerics.ts'
import { rowsOf, updated } from './oracle/streams.ts'

/** A pending update of residual streams, on the device and as values. */
export interface GivenUpdate extends StreamShape {
  readonly tensors: StreamUpdate
  readonly y: Float64Array
  readonly post: Float64Array
  readonly mix: Float64Array
}

/** Random updates: `mix` is far from symmetric, so that a transposed one shows. */
export function givenUpdate(bench: Bench, shape: StreamShape, style: ValueStyle): GivenUpdate {
  const { rows, streams, hidden } = shape
  const { random } = bench
  const uniform = (count: number, most: number): Float64Array =>
    Float64Array.from({ length: count }, () => random.unit() * most)
  const y = bench.activation(
    'update output',
    [rows, hidden],
    generateValues(random, rows * hidden, style),
  )
  const post = bench.f32('update post', [rows, streams], uniform(rows * streams, 2))
  const mix = bench.f32(
    'update mix',
    [rows, streams, streams],
    uniform(rows * streams * streams, 1),
  )
  const tensors = { output: y.tensor, post: post.tensor, mix: mix.tensor }
  return { ...shape, tensors, y: y.values, post: post.values, mix: mix.values }
}

/** One row's streams after the update; `before` holds all rows. */
export function updateEstimate(
  before: Float64Array,
  update: GivenUpdate,
  row: number,
  numerics: Numerics,
): Estimate {
  const { rows, streams } = update
  const own = (values: Float64Array): Float64Array => {
    const width = values.length / rows
    return values.subarray(row * width, (row + 1) * width)
  }
  const mix = rowsOf(own(update.mix), streams)
  const x = rowsOf(own(before), streams)
  return updated(x, { y: own(update.y), post: own(update.post), mix }, numerics)
}

/** Streams an op reads and, with a pending update, first changes. */
export interface GivenStreams extends StreamShape {
  readonly tensor: Output['tensor']
  readonly pending: StreamUpdate | null
  /** Compares the streams where they changed, and gives what the op went on with, row by row. */
  settle(): readonly Estimate[]
}

export function givenStreams(
  bench: Bench,
  shape: StreamShape,
  options: { readonly style: ValueStyle; readonly pending: boolean },
): GivenStreams {
  const { rows, streams, hidden } = shape
  const extents = [rows, streams, hidden]
  const values = generateValues(bench.random, rows * streams * hidden, options.style)
  if (!options.pending) {
    const input = bench.activation('streams', extents, values)
    const settle = (): readonly Estimate[] => eachRow(input.values, rows).map(exactly)
    return { ...shape, tensor: input.tensor, pending: null, settle }
  }
  const output = bench.changing('streams', bench.formats.activations, extents, values)
  const update = givenUpdate(bench, shape, options.style)
  const before = bench.readValues(output)
  const settle = (): readonly Estimate[] => {
    const expected = Array.from({ length: rows }, (_, row) =>
      updateEstimate(before, update, row, bench.numerics),
    )
    bench.expectReals(output, joined(expected))
    // From here on the device's own streams count; it may have gone on with them unrounded.
    const unit = storageUnit(output.tensor.dtype)
    return eachRow(bench.readValues(output), rows).map((value) => {
      return { ...exactly(value), certain: value.map((v) => unit * Math.abs(v)) }
    })
  }
  return { ...shape, tensor: output.tensor, pending: update.tensors, settle }
}

function eachRow(values: Float64Array, rows: number): Float64Array[] {
  const width = rows === 0 ? 0 : values.length / rows
  return Array.from({ length: rows }, (_, row) => values.subarray(row * width, (row + 1) * width))
}

/** One row's streams, each as an estimate of its own. */
export function streamsOf(row: Estimate, count: number): readonly Estimate[] {
  const width = row.value.length / count
  return Array.from({ length: count }, (_, a) => slice(row, a * width, (a + 1) * width))
}
