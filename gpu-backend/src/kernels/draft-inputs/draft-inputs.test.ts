import { describe, expect, it } from 'vitest'
import { ReferenceDevice } from '../../device/reference.ts'
import { TestTensors } from '../testing/test-tensors.ts'
import { draftInputs } from './draft-inputs.ts'

const on = new TestTensors(new ReferenceDevice())

describe('draft-inputs', () => {
  it('norms the embedding of each next token and each stream of the row it follows', () => {
    const embedding = on.empty('f32', [2, 2])
    const streams = on.empty('f32', [2, 2, 2])
    const source = on.f32([3, 2, 2], [1, 1, 2, 2, 9, 9, 9, 9, 3, 4, 0, 5])
    draftInputs(on.device, {
      tokens: on.i32([2], [1, 0]),
      table: on.bf16([2, 2], [1, -1, 2, 2]),
      source,
      picks: on.i32([2], [2, 0]),
      embeddingNorm: on.bf16([2], [1, 2]),
      streamNorm: on.bf16([2], [3, 1]),
      eps: 0,
      embedding,
      streams,
    })
    const close = (found: readonly number[], expected: readonly number[]): void => {
      for (const [i, value] of found.entries()) expect(value).toBeCloseTo(expected[i] ?? 0, 5)
    }
    close(on.read(embedding), [1, 2, 1, -2])
    const rms = Math.sqrt(12.5)
    close(on.read(streams), [9 / rms, 4 / rms, 0, 5 / rms, 3, 1, 3, 1])
    expect(on.read(source).slice(8)).toEqual([3, 4, 0, 5])
  })
})
