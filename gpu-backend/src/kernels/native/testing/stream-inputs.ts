import type { Tensor } from '../../../device/tensor.ts'
import type { StreamShape, StreamUpdate } from '../../numerics/streams.ts'
import { Random } from '../../testing/random.ts'
import type { TestTensors } from '../../testing/test-tensors.ts'
import { mixedValues } from './both-devices.ts'

/** Residual streams and an update, as values, so that single rows can be taken out of them. */
export interface StreamInputs extends StreamShape {
  readonly values: Float32Array
  readonly output: Float32Array
  readonly post: Float32Array
  readonly mix: Float32Array
}

/** `mix` is far from symmetric, so that a transposed one shows. */
export function streamInputs(seed: number, shape: StreamShape): StreamInputs {
  const { rows, streams, hidden } = shape
  const random = new Random(seed, 'update')
  const uniform = (count: number, most: number): Float32Array =>
    Float32Array.from({ length: count }, () => random.unit() * most)
  return {
    ...shape,
    values: mixedValues(seed, 'streams', rows * streams * hidden),
    output: mixedValues(seed, 'output', rows * hidden),
    post: uniform(rows * streams, 2),
    mix: uniform(rows * streams * streams, 1),
  }
}

export function rowOf(inputs: StreamInputs, row: number): StreamInputs {
  const own = (values: Float32Array): Float32Array => {
    const width = values.length / inputs.rows
    return values.slice(row * width, (row + 1) * width)
  }
  const { values, output, post, mix } = inputs
  return {
    ...inputs,
    rows: 1,
    values: own(values),
    output: own(output),
    post: own(post),
    mix: own(mix),
  }
}

export function placeStreams(on: TestTensors, inputs: StreamInputs): Tensor {
  return on.f32([inputs.rows, inputs.streams, inputs.hidden], inputs.values)
}

export function placeUpdate(on: TestTensors, inputs: StreamInputs): StreamUpdate {
  const { rows, streams, hidden } = inputs
  return {
    output: on.f32([rows, hidden], inputs.output),
    post: on.f32([rows, streams], inputs.post),
    mix: on.f32([rows, streams, streams], inputs.mix),
  }
}
