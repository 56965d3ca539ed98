import { describe, expect, it } from 'vitest'
import {
  expectSameBits,
  mixedValues,
  type OpRun,
  runNative,
} from '../native/testing/both-devices.ts'
import { nativeForTests } from '../native/testing/native-addon.ts'
import { draftInputs } from './draft-inputs.ts'

const native = await nativeForTests()
const addon = 'addon' in native ? native.addon : null

interface Problem {
  readonly tokens: readonly number[]
  readonly picks: readonly number[]
  readonly count: number
  readonly hidden: number
  readonly table: 'f32' | 'bf16'
}

const [vocabulary, sourceRows] = [13, 5]

function gathering({ tokens, picks, count, hidden, table }: Problem): OpRun {
  return (on) => {
    const rows = tokens.length
    const embedding = on.empty('f32', [rows, hidden])
    const streams = on.empty('f32', [rows, count, hidden])
    const source = mixedValues(hidden, 'source', sourceRows * count * hidden)
    source.fill(0, 0, hidden)
    draftInputs(on.device, {
      tokens: on.i32([rows], tokens),
      table: on[table]([vocabulary, hidden], mixedValues(3, 'table', vocabulary * hidden)),
      source: on.f32([sourceRows, count, hidden], source),
      picks: on.i32([rows], picks),
      embeddingNorm: on.bf16([hidden], mixedValues(4, 'embedding norm', hidden)),
      streamNorm: on.f32([hidden], mixedValues(5, 'stream norm', hidden)),
      eps: 1e-6,
      embedding,
      streams,
    })
    return { embedding: on.read(embedding), streams: on.read(streams) }
  }
}

const whole: Problem = { tokens: [12, 0], picks: [4, 0], count: 4, hidden: 64, table: 'bf16' }

describe.skipIf(addon === null)('native draft-inputs', () => {
  it('leaves the bits of the reference, whatever the table’s format', () => {
    if (addon === null) return
    for (const table of ['f32', 'bf16'] as const) {
      for (const [count, hidden] of [
        [4, 64],
        [1, 1],
        [2, 35],
        [4, 4096],
      ] as const) {
        const problem = { tokens: [12, 0, 7], picks: [4, 0, 4], count, hidden, table }
        expectSameBits(addon, gathering(problem), JSON.stringify(problem))
      }
    }
  })

  it('refuses tokens and rows that are not there', () => {
    if (addon === null) return
    const refused = (change: Partial<Problem>, message: string): void => {
      expect(() => runNative(addon, gathering({ ...whole, ...change }))).toThrow(
        expect.objectContaining({ code: 'out_of_range', message }),
      )
    }
    refused({ tokens: [0, 13] }, 'cpu: run: draft-inputs: token 13 is outside the 13 there are')
    refused({ picks: [5, 0] }, 'cpu: run: draft-inputs: stream row 5 is outside the 5 there are')
  })
})
