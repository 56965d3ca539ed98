import { describe, expect, it } from 'vitest'
import { ReferenceDevice } from '../../device/reference.ts'
import type { Tensor } from '../../device/tensor.ts'
import { expectClose } from '../testing/expect-close.ts'
import { takeNumbers, type TestSegment, TestTensors } from '../testing/test-tensors.ts'
import { attention, type CompressedKeys } from './attention.ts'

const on = new TestTensors(new ReferenceDevice())

interface Step {
  readonly segments: readonly TestSegment[]
  readonly queries: readonly number[]
  readonly keys: readonly number[]
  readonly window: Tensor
  readonly windowSize: number
  readonly sink: readonly number[]
  readonly head: number
  readonly frequencies?: readonly number[]
  readonly compressed?: CompressedKeys
  readonly pages?: Tensor
  readonly scale?: number
}

function run(step: Step): number[] {
  const rows = on.rows(step.segments)
  const count = rows.shape[0] ?? 0
  const heads = step.sink.length
  const output = on.empty('f32', [count, heads, step.head])
  const frequencies = step.frequencies ?? []
  attention(on.device, {
    queries: on.f32([count, heads, step.head], step.queries),
    keys: on.f32([count, step.head], step.keys),
    window: step.window,
    windowSize: step.windowSize,
    compressed: step.compressed ?? null,
    sink: on.f32([heads], step.sink),
    frequencies: on.f32([frequencies.length], frequencies),
    rows,
    pages: step.pages ?? on.i32([step.window.shape[0] ?? 0, 1], [0, 0]),
    scale: step.scale ?? 1,
    output,
  })
  return on.read(output)
}

const noSink = -1000

describe('attention', () => {
  it('averages keys by the softmax of their scores', () => {
    // Scores 0 and ln 3 under a scale of a half.
    const found = run({
      segments: [{ slot: 0, start: 0, length: 2 }],
      queries: [1, 0, 1, 0],
      keys: [0, 1, 2 * Math.log(3), 2],
      window: on.empty('f32', [2, 4, 2]),
      windowSize: 4,
      sink: [noSink],
      head: 2,
      scale: 0.5,
    })
    expectClose(found, [0, 1, 1.5 * Math.log(3), 1.75])
  })

  it('lets the sink take a share of the sum that carries no value, unscaled, per head', () => {
    const found = run({
      segments: [{ slot: 0, start: 0, length: 1 }],
      queries: [0, 0],
      keys: [8],
      window: on.empty('f32', [2, 4, 1]),
      windowSize: 4,
      sink: [0, Math.log(3)],
      head: 1,
      scale: 0.25,
    })
    expectClose(found, [4, 2])
  })

  it('does not let a large sink or large scores overflow', () => {
    const step = { segments: [{ slot: 0, start: 0, length: 1 }], windowSize: 4, head: 1 }
    const window = on.empty('f32', [2, 4, 1])
    expectClose(run({ ...step, queries: [1000], keys: [1000], window, sink: [0] }), [1000])
    expectClose(run({ ...step, queries: [0], keys: [1], window, sink: [900] }), [0])
  })

  it('sees its own key and the windowSize − 1 before it, across the edge of a step', () => {
    const window = on.empty('f32', [2, 5, 1])
    const step = { queries: [0, 0, 0], sink: [noSink], head: 1, windowSize: 3, window }
    const first = run({ ...step, segments: [{ slot: 1, start: 0, length: 3 }], keys: [1, 2, 4] })
    expectClose(first, [1, 1.5, 7 / 3])
    const second = run({ ...step, segments: [{ slot: 1, start: 3, length: 3 }], keys: [8, 16, 32] })
    expectClose(second, [14 / 3, 28 / 3, 56 / 3])
  })

  it('attends before a long segment overwrites the window it still needs', () => {
    const window = on.empty('f32', [2, 3, 1])
    const step = { sink: [noSink], head: 1, windowSize: 3, window }
    run({ ...step, segments: [{ slot: 0, start: 0, length: 2 }], queries: [0, 0], keys: [6, 12] })
    const later = run({
      ...step,
      segments: [{ slot: 0, start: 2, length: 4 }],
      queries: [0, 0, 0, 0],
      keys: [24, 0, 3, 6],
    })
    expectClose(later, [14, 12, 9, 3])
    // And leaves in it the last keys of the segment, whatever the ring had before.
    const last = { segments: [{ slot: 0, start: 6, length: 1 }], queries: [0], keys: [0] }
    expectClose(run({ ...step, ...last }), [3])
  })

  it('puts visible compressed entries under the same softmax', () => {
    const pages = on.i32([2, 1], [0, 1])
    const entries = on.f32([2, 128, 1], [10, 20, 30, ...new Float32Array(253)])
    const step = {
      window: on.empty('f32', [2, 3, 1]),
      windowSize: 3,
      sink: [noSink],
      head: 1,
      pages,
    }
    const row = { segments: [{ slot: 0, start: 0, length: 4 }], queries: [0, 0, 0, 0] }
    const all = { entries, ratio: 2, selected: null }
    const found = run({ ...step, ...row, keys: [1, 1, 1, 1], compressed: all })
    expectClose(found, [1, 12 / 3, 13 / 4, 33 / 5])
    const selected = on.i32([4, 2], [-1, -1, 0, -1, 0, -1, 1, -1])
    const picked = { entries, ratio: 2, selected }
    expectClose(run({ ...step, ...row, keys: [1, 1, 1, 1], compressed: picked }), [
      1,
      12 / 3,
      13 / 4,
      23 / 4,
    ])
  })

  it('finds entries through the page table', () => {
    const pages = on.i32([2, 2], [-1, -1, 1, 0])
    const entries = on.f32([2, 2, 1], [70, 80, 10, 20])
    const found = run({
      segments: [{ slot: 1, start: 511, length: 1 }],
      queries: [0],
      keys: [0],
      window: on.filled([2, 3, 1], 0),
      windowSize: 1,
      sink: [noSink],
      head: 1,
      pages,
      compressed: { entries, ratio: 128, selected: null },
    })
    expectClose(found, [180 / 5])
  })

  it('turns the last elements of the output back by the position of the query', () => {
    // Position 3 turns by three quarters; back from (2, 5) that is (−5, 2).
    const found = run({
      segments: [{ slot: 0, start: 3, length: 1 }],
      queries: [0, 0, 0],
      keys: [7, 2, 5],
      window: on.filled([2, 3, 3], 0),
      windowSize: 1,
      sink: [noSink],
      head: 3,
      frequencies: [Math.PI / 2],
    })
    expectClose(found, [7, -5, 2])
  })

  it('gives a row the same bits however its sequence is cut into steps', () => {
    const [length, head] = [11, 6]
    const queries = takeNumbers(1, length * head)
    const keys = takeNumbers(2, length * head)
    const feed = (cuts: readonly number[]): number[] => {
      const window = on.empty('f32', [2, 4, head])
      let start = 0
      return cuts.flatMap((end) => {
        const part = (numbers: readonly number[]): number[] =>
          numbers.slice(start * head, end * head)
        const segments = [{ slot: 1, start, length: end - start }]
        const step = { segments, queries: part(queries), keys: part(keys), window }
        start = end
        return run({ ...step, windowSize: 4, sink: [0.5], head, frequencies: [0.3] })
      })
    }
    const whole = feed([length])
    expect(feed(Array.from({ length }, (_, i) => i + 1))).toEqual(whole)
    expect(feed([2, 9, 11])).toEqual(whole)
  })
})
