import { describe, expect, it } from 'vitest'
import { ReferenceDevice } from '../../device/reference.ts'
import type { LinearWeight } from '../../device/tensor.ts'
import { TestTensors } from '../testing/test-tensors.ts'
import { linear } from './linear.ts'

const on = new TestTensors(new ReferenceDevice())

function run(weight: LinearWeight, input: readonly number[], quantise = false): number[] {
  const [outputs = 0, width = 0] = weight.weight.shape
  const rows = input.length / width
  const output = on.empty('f32', [rows, outputs])
  linear(on.device, {
    input: on.f32([rows, width], input),
    quantise,
    parts: [{ weight, output }],
  })
  return on.read(output)
}

/** 128 inputs: 101 and 1.03 in front, zeros behind. FP8 keeps 104 and 1 of them (s = ¼). */
const coarse = [101, 1.03, ...Array.from({ length: 126 }, () => 0)]

describe('linear', () => {
  it('multiplies by the rows of an f32 or bf16 weight', () => {
    const plain = { weight: on.f32([2, 3], [1, 2, 3, 4, 5, 6]), scale: null }
    const half = { weight: on.bf16([2, 3], [1, 2, 3, 4, 5, 6]), scale: null }
    expect(run(plain, [1, 0, -1, 1, 1, 1])).toEqual([-2, -2, 6, 15])
    expect(run(half, [1, 0, -1, 1, 1, 1])).toEqual([-2, -2, 6, 15])
  })

  it('reads FP8 weights under their tile scales', () => {
    const weight = {
      weight: on.bytes('f8e4m3', [1, 130], new Uint8Array(130).fill(0x38)),
      scale: on.bytes('e8m0', [1, 2], [128, 124]),
    }
    const input = Array.from({ length: 130 }, (_, i) => (i === 5 || i === 129 ? 1 : 0))
    expect(run(weight, input)).toEqual([2.125])
  })

  it('reads FP4 weights under a scale for 32', () => {
    const weight = {
      weight: on.bytes('fp4', [1, 64], new Uint8Array(32).fill(0x21)),
      scale: on.bytes('e8m0', [1, 2], [127, 130]),
    }
    const input = Array.from({ length: 64 }, (_, i) => (i === 0 || i === 33 ? 1 : 0))
    expect(run(weight, input)).toEqual([0.5 + 8])
  })

  it('rounds the input to FP8 for FP8 and FP4 weights, and only when told to', () => {
    const fp8 = {
      weight: on.bytes('f8e4m3', [1, 128], new Uint8Array(128).fill(0x38)),
      scale: on.bytes('e8m0', [1, 1], [127]),
    }
    const fp4 = {
      weight: on.bytes('fp4', [1, 128], new Uint8Array(64).fill(0x22)),
      scale: on.bytes('e8m0', [1, 4], [127, 127, 127, 127]),
    }
    const exact = Math.fround(101 + Math.fround(1.03))
    expect(run(fp8, coarse, true)).toEqual([105])
    expect(run(fp4, coarse, true)).toEqual([105])
    expect(run(fp8, coarse)).toEqual([exact])
  })

  it('never rounds the input of a bf16 weight, not even beside an FP8 one', () => {
    const input = on.f32([1, 128], coarse)
    const bf16 = { weight: on.bf16([1, 128], new Float32Array(128).fill(1)), scale: null }
    const fp8 = {
      weight: on.bytes('f8e4m3', [1, 128], new Uint8Array(128).fill(0x38)),
      scale: on.bytes('e8m0', [1, 1], [127]),
    }
    const outputs = [on.empty('f32', [1, 1]), on.empty('f32', [1, 1])] as const
    linear(on.device, {
      input,
      quantise: true,
      parts: [
        { weight: bf16, output: outputs[0] },
        { weight: fp8, output: outputs[1] },
      ],
    })
    expect(outputs.map((output) => on.read(output))).toEqual([
      [Math.fround(101 + Math.fround(1.03))],
      [105],
    ])
    expect(on.read(input)).toEqual(coarse.map(Math.fround))
  })
})
