import { describe, expect, it } from 'vitest'
import {
  expectSameBits,
  mixedValues,
  type OpRun,
  runNative,
} from '../native/testing/both-devices.ts'
import { nativeForTests } from '../native/testing/native-addon.ts'
import { embed } from './embed.ts'

const native = await nativeForTests()
const addon = 'addon' in native ? native.addon : null

interface Problem {
  readonly tokens: readonly number[]
  readonly vocabulary: number
  readonly hidden: number
  readonly streams: number
  readonly table: 'f32' | 'bf16'
}

function embedding({ tokens, vocabulary, hidden, streams, table }: Problem): OpRun {
  return (on) => {
    const values = mixedValues(hidden, 'table', vocabulary * hidden)
    const output = on.empty('f32', [tokens.length, streams, hidden])
    embed(on.device, {
      tokens: on.i32([tokens.length], tokens),
      table: on[table]([vocabulary, hidden], values),
      streams: output,
    })
    return { streams: on.read(output) }
  }
}

const whole: Problem = { tokens: [2, 0], vocabulary: 3, hidden: 8, streams: 4, table: 'bf16' }

describe.skipIf(addon === null)('native embed', () => {
  it('copies every row, narrow or wider than a thread takes at a time, to every stream', () => {
    if (addon === null) return
    const many = Array.from({ length: 300 }, (_, i) => (i * 7) % 11)
    for (const table of ['f32', 'bf16'] as const) {
      for (const hidden of [1, 33, 256, 4097]) {
        for (const streams of [1, 4]) {
          const tokens = hidden < 64 ? many : [10, 0, 10]
          const problem = { tokens, vocabulary: 11, hidden, streams, table }
          expectSameBits(addon, embedding(problem), JSON.stringify({ table, hidden, streams }))
        }
      }
    }
  })

  it('refuses a token that the table has no row for', () => {
    if (addon === null) return
    for (const token of [3, -1]) {
      expect(() => runNative(addon, embedding({ ...whole, tokens: [0, token] }))).toThrow(
        expect.objectContaining({
          code: 'out_of_range',
          message: `cpu: run: embed: token ${token} is outside the 3 there are`,
        }),
      )
    }
  })
})
