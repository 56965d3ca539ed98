import { describe, expect, it } from 'vitest'
import { ReferenceDevice } from '../../device/reference.ts'
import type { Tensor } from '../../device/tensor.ts'
import { hcPost } from '../hc-post/hc-post.ts'
import { expectClose } from '../testing/expect-close.ts'
import { takeNumbers, TestTensors } from '../testing/test-tensors.ts'
import { type HcPreArgs, hcPre } from './hc-pre.ts'

const on = new TestTensors(new ReferenceDevice())

interface Case {
  readonly streams: Tensor
  readonly fn?: readonly number[]
  readonly scale?: readonly number[]
  readonly base?: readonly number[]
  readonly norm?: readonly number[]
  readonly pending?: HcPreArgs['pending']
  readonly hcEps?: number
  readonly normEps?: number
  readonly sinkhornIterations?: number
}

function run(given: Case): { normed: number[]; post: number[]; mix: number[] } {
  const [rows = 0, count = 0, hidden = 0] = given.streams.shape
  const width = (2 + count) * count
  const outputs = {
    normed: on.empty('f32', [rows, hidden]),
    post: on.empty('f32', [rows, count]),
    mix: on.empty('f32', [rows, count, count]),
  }
  const zeros = (length: number): number[] => Array.from({ length }, () => 0)
  hcPre(on.device, {
    streams: given.streams,
    pending: given.pending ?? null,
    fn: on.f32([width, count * hidden], given.fn ?? zeros(width * count * hidden)),
    scale: on.f32([3], given.scale ?? [1, 1, 1]),
    base: on.f32([width], given.base ?? zeros(width)),
    norm: on.bf16([hidden], given.norm ?? zeros(hidden).map(() => 1)),
    sinkhornIterations: given.sinkhornIterations ?? 20,
    hcEps: given.hcEps ?? 0,
    normEps: given.normEps ?? 0,
    ...outputs,
  })
  return {
    normed: on.read(outputs.normed),
    post: on.read(outputs.post),
    mix: on.read(outputs.mix),
  }
}

describe('hc-pre', () => {
  it('adds hcEps to the weights it contracts with', () => {
    // pre = σ(base) + 0.25 = [0.25, 0.75]; u = [1, 3], whose rms is √5.
    const base = [-1000, 0, 0, 0, 0, 0, 0, 0]
    const streams = on.f32([1, 2, 2], [4, 0, 0, 4])
    const { normed } = run({ streams, base, norm: [1, 2], hcEps: 0.25 })
    expectClose(normed, [1 / Math.sqrt(5), 6 / Math.sqrt(5)])
  })

  it('gives post twice the sigmoid, without eps', () => {
    const base = [0, 0, 0, Math.log(3), 0, 0, 0, 0]
    const { post } = run({ streams: on.f32([1, 2, 1], [1, 1]), base, hcEps: 0.25 })
    expectClose(post, [1, 1.5])
  })

  it('scales each group of logits q = fn·z ÷ rms(z) by its own factor', () => {
    // z = [3, 4], rms² = 12.5; row 2 of fn is post's first.
    const fn = Array.from({ length: 16 }, (_, i) => (i === 4 ? 1 : 0))
    const streams = on.f32([1, 2, 1], [3, 4])
    const { post } = run({ streams, fn, scale: [7, 2, 5], base: [0, 0, 0.5, 0, 0, 0, 0, 0] })
    const q = 3 / Math.sqrt(12.5)
    expectClose(post, [2 / (1 + Math.exp(-(2 * q + 0.5))), 1])
  })

  it('counts normEps in the rms of the streams and of the contraction', () => {
    const fn = Array.from({ length: 16 }, (_, i) => (i === 4 ? 1 : 0))
    const streams = on.f32([1, 2, 1], [3, 4])
    const { post, normed } = run({ streams, fn, normEps: 12.5 })
    expectClose(post, [2 / (1 + Math.exp(-3 / 5)), 1])
    // pre = ½ twice: u = 3.5.
    expectClose(normed, [3.5 / Math.sqrt(3.5 ** 2 + 12.5)])
  })

  it('runs Sinkhorn on the logits of the matrix, source stream first', () => {
    const logits = [0.1, 0.2, 0.3, 0.4, -0.5, 0, 0.5, 1, 2, -1, 0, 0.25, 0, 0, 0, 0]
    const base = [...Array.from({ length: 8 }, () => 0), ...logits]
    const { mix } = run({ streams: on.filled([1, 4, 1], 1), base, hcEps: 1e-6 })
    expectClose(
      mix.slice(0, 8),
      [0.136887, 0.334804, 0.282141, 0.246167, 0.065761, 0.239947, 0.301654, 0.392636],
    )
    expectClose(
      mix.slice(8),
      [0.636911, 0.070179, 0.145459, 0.147451, 0.16044, 0.355069, 0.270745, 0.213744],
    )
  })

  it('applies a pending update first, bit for bit as hc-post does', () => {
    const values = takeNumbers(3, 2 * 4 * 8)
    const update = {
      output: on.f32([2, 8], takeNumbers(4, 16)),
      post: on.f32([2, 4], takeNumbers(5, 8)),
      mix: on.f32([2, 4, 4], takeNumbers(6, 32)),
    }
    const given = { fn: takeNumbers(7, 24 * 32), base: takeNumbers(8, 24), hcEps: 1e-6 }
    const apart = on.f32([2, 4, 8], values)
    hcPost(on.device, { streams: apart, update })
    const expected = run({ streams: apart, ...given })
    const together = on.f32([2, 4, 8], values)
    expect(run({ streams: together, pending: update, ...given })).toEqual(expected)
    expect(on.read(together)).toEqual(on.read(apart))
  })
})
