import { describe, expect, it } from 'vitest'
import { ReferenceDevice } from '../../device/reference.ts'
import type { LinearWeight } from '../../device/tensor.ts'
import { expectClose } from '../testing/expect-close.ts'
import { TestTensors } from '../testing/test-tensors.ts'
import { experts, type ExpertWeights } from './experts.ts'

const on = new TestTensors(new ReferenceDevice())

function plain(shape: readonly number[], values: Iterable<number>): LinearWeight {
  return { weight: on.f32(shape, values), scale: null }
}

/** One-element experts: gate, up and down are a factor each. */
function scalars(factors: readonly (readonly [number, number, number])[]): ExpertWeights {
  const part = (index: 0 | 1 | 2): LinearWeight =>
    plain(
      [factors.length, 1, 1],
      factors.map((factor) => factor[index]),
    )
  return { gate: part(0), up: part(1), down: part(2) }
}

function scalar(gate: number, up: number, down: number): ExpertWeights {
  return { gate: plain([1, 1], [gate]), up: plain([1, 1], [up]), down: plain([1, 1], [down]) }
}

const nothing = scalar(0, 0, 0)
const silu = (x: number): number => x / (1 + Math.exp(-x))

function run(given: {
  readonly input: readonly number[]
  readonly experts: readonly number[]
  readonly weights: readonly number[]
  readonly routed: ExpertWeights
  readonly shared?: ExpertWeights
}): number[] {
  const rows = given.input.length
  const picked = given.experts.length / rows
  const output = on.empty('f32', [rows, 1])
  experts(on.device, {
    input: on.f32([rows, 1], given.input),
    experts: on.i32([rows, picked], given.experts),
    weights: on.f32([rows, picked], given.weights),
    routed: given.routed,
    shared: given.shared ?? nothing,
    limit: 10,
    quantise: false,
    output,
  })
  return on.read(output)
}

describe('experts', () => {
  it('sums down · (silu(gate) · up · weight) over the experts of each row', () => {
    const routed = scalars([
      [1, 2, 3],
      [2, 1, 5],
      [0.5, 4, 1],
    ])
    const found = run({ input: [1, 2], experts: [0, 2, 1, 0], weights: [0.5, 2, 1, 0.25], routed })
    expectClose(found, [
      3 * silu(1) * 2 * 0.5 + silu(0.5) * 4 * 2,
      5 * silu(4) * 2 + 3 * silu(2) * 4 * 0.25,
    ])
  })

  it('bounds the gate above only, and up on both sides, before they meet', () => {
    const one = { input: [1], experts: [0], weights: [1] }
    expectClose(run({ ...one, routed: scalars([[50, 1, 1]]) }), [silu(10)])
    expectClose(run({ ...one, routed: scalars([[-50, 1, 1]]) }), [silu(-50)])
    expectClose(run({ ...one, routed: scalars([[-11, -1, 1e4]]) }), [-1e4 * silu(-11)])
    expectClose(run({ ...one, routed: scalars([[1, 50, 1]]) }), [silu(1) * 10])
    expectClose(run({ ...one, routed: scalars([[1, -50, 1]]) }), [silu(1) * -10])
  })

  it('bounds before the routing weight, not after', () => {
    const found = run({ input: [1], experts: [0], weights: [3], routed: scalars([[50, 50, 1]]) })
    expectClose(found, [silu(10) * 10 * 3])
  })

  it('adds the shared expert, bounded too, with weight one', () => {
    const found = run({
      input: [1],
      experts: [0],
      weights: [1],
      routed: scalars([[1, 1, 1]]),
      shared: scalar(50, -50, 2),
    })
    expectClose(found, [silu(1) - 2 * silu(10) * 10])
  })

  it('as a part works out its own experts and rows, and leaves the other places', () => {
    const results = on.f32([2, 2, 1], [-1, -1, -1, -1])
    const output = on.empty('f32', [1, 1])
    experts(on.device, {
      input: on.f32([2, 1], [1, 2]),
      experts: on.i32([2, 2], [4, 0, 1, 3]),
      weights: on.f32([2, 2], [0.5, 1, 1, 2]),
      routed: scalars([
        [1, 2, 3],
        [2, 1, 5],
      ]),
      shared: scalar(1, 1, 4),
      limit: 10,
      quantise: false,
      output,
      part: { firstExpert: 3, firstRow: 1, results },
    })
    expectClose(on.read(results), [5 * silu(2) * 0.5, -1, -1, 3 * silu(2) * 4 * 2])
    expectClose(on.read(output), [4 * silu(2) * 2])
  })

  it('takes each expert from its place in an FP4 stack', () => {
    const stack = (rows: number, width: number, bytes: readonly number[], scales: number[]) => ({
      weight: on.bytes(
        'fp4',
        [2, rows, width],
        bytes.flatMap((byte) => Array.from({ length: (rows * width) / 2 }, () => byte)),
      ),
      scale: on.bytes(
        'e8m0',
        [2, rows, width / 32],
        scales.flatMap((scale) => Array.from({ length: (rows * width) / 32 }, () => scale)),
      ),
    })
    const output = on.empty('f32', [1, 32])
    const input = Array.from({ length: 32 }, (_, i) => (i === 0 ? 1 : 0))
    const none = plain([32, 32], new Float32Array(1024))
    experts(on.device, {
      input: on.f32([1, 32], input),
      experts: on.i32([1, 1], [1]),
      weights: on.f32([1, 1], [1]),
      // Expert 1: gate 1, up 2, down 0.5 · 2 everywhere.
      routed: {
        gate: stack(32, 32, [0x77, 0x22], [127, 127]),
        up: stack(32, 32, [0x77, 0x44], [127, 127]),
        down: stack(32, 32, [0x77, 0x11], [127, 128]),
      },
      shared: { gate: none, up: none, down: none },
      limit: 10,
      quantise: false,
      output,
    })
    expectClose(
      on.read(output),
      Array.from({ length: 32 }, () => 32 * silu(1) * 2),
    )
  })

  it('rounds input and weighted hidden activation to FP8 when told to', () => {
    const width = 128
    const first = (values: readonly number[]): number[] => [
      ...values,
      ...Array.from({ length: width - values.length }, () => 0),
    ]
    const diagonal = first([1])
    const wide = (value: number): LinearWeight =>
      plain(
        [width, width],
        Array.from({ length: width }, (_, row) => (row === 0 ? diagonal : first([]))).flatMap(
          (row) => row.map((element) => element * value),
        ),
      )
    const stack = (value: number): LinearWeight => {
      const { weight } = wide(value)
      return { weight: { ...weight, shape: [1, width, width] }, scale: null }
    }
    const zero = wide(0)
    const output = on.empty('f32', [1, width])
    experts(on.device, {
      // 1.03 beside a 101 becomes 1 (s = ¼, four steps).
      input: on.f32([1, width], [1.03, 101, ...Array.from({ length: width - 2 }, () => 0)]),
      experts: on.i32([1, 1], [0]),
      weights: on.f32([1, 1], [1.7]),
      routed: { gate: stack(1), up: stack(1), down: stack(1) },
      shared: { gate: zero, up: zero, down: zero },
      limit: 10,
      quantise: true,
      output,
    })
    // silu(1) · 1.7 = 1.2428, with s = 2^-8: 318.2 rounds to 320. Unweighted it would be 184 or 192.
    expect(on.read(output)[0]).toBe(320 / 256)
  })
})
