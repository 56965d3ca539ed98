import { describe, expect, it } from 'vitest'
import { CpuDevice } from '../../device/cpu.ts'
import type { Device } from '../../device/device.ts'
import { ReferenceDevice } from '../../device/reference.ts'
import { byteLength, type LinearWeight, type Tensor } from '../../device/tensor.ts'
import type { Isa, Numerics } from '../native/addon.ts'
import { nativeForTests } from '../native/testing/native-addon.ts'
import { e4m3Values } from '../numerics/e4m3.ts'
import { Random } from '../testing/random.ts'
import { TestTensors } from '../testing/test-tensors.ts'
import { linear } from './linear.ts'

const native = await nativeForTests()
const addon = 'addon' in native ? native.addon : null

type Format = 'fp4' | 'f8e4m3' | 'bf16' | 'f32'
const formats: readonly Format[] = ['fp4', 'f8e4m3', 'bf16', 'f32']

interface Problem {
  readonly format: Format
  readonly rows: number
  readonly width: number
  readonly outputs: number
  readonly quantise: boolean
  readonly seed: number
}

/** Bytes of a random weight `[outputs, width]` and its scales; every code but NaN occurs. */
interface WeightBytes {
  readonly codes: Uint8Array
  readonly scales: Uint8Array | null
}

function randomWeight({ format, outputs, width, seed }: Problem): WeightBytes {
  const random = new Random(seed, `weight ${format}`)
  const codes = new Uint8Array(byteLength(format, [outputs, width]))
  random.fill(codes)
  const scaleBytes = (count: number): Uint8Array =>
    Uint8Array.from({ length: count }, () => 117 + random.below(10))
  switch (format) {
    case 'fp4':
      return { codes, scales: scaleBytes((outputs * width) / 32) }
    case 'f8e4m3':
      return {
        codes: codes.map((code) => (Number.isNaN(e4m3Values[code]) ? code ^ 1 : code)),
        scales: scaleBytes(Math.ceil(outputs / 128) * Math.ceil(width / 128)),
      }
    case 'bf16': {
      const halves = Uint16Array.from(
        { length: outputs * width },
        () => (random.below(2) << 15) | (0x3d00 + random.below(0x200)),
      )
      return { codes: new Uint8Array(halves.buffer), scales: null }
    }
    case 'f32': {
      const values = Float32Array.from({ length: outputs * width }, () => random.normal())
      return { codes: new Uint8Array(values.buffer), scales: null }
    }
  }
}

/** Mostly of one size, some far larger, some zero, so that blocks differ in their scales. */
function randomInput({ rows, width, seed }: Problem): Float32Array {
  const random = new Random(seed, 'input')
  return Float32Array.from({ length: rows * width }, () => {
    const outlier = random.below(64)
    if (outlier === 0) return 0
    return random.normal() * (outlier === 1 ? 40 : 1)
  })
}

function placeWeight(on: TestTensors, problem: Problem, bytes: WeightBytes): LinearWeight {
  const { format, outputs, width } = problem
  const weight = on.bytes(format, [outputs, width], bytes.codes)
  if (bytes.scales === null) return { weight, scale: null }
  const shape =
    format === 'fp4' ? [outputs, width / 32] : [Math.ceil(outputs / 128), Math.ceil(width / 128)]
  return { weight, scale: on.bytes('e8m0', shape, bytes.scales) }
}

/** Words round an output that nothing may change. */
const guardWords = 64
const guardValue = -12345.5

interface Guarded {
  readonly tensor: Tensor
  readonly shape: readonly [number, number]
}

function guardedOutput(on: TestTensors, shape: readonly [number, number]): Guarded {
  const count = shape[0] * shape[1]
  const values = new Float32Array(count + 2 * guardWords).fill(guardValue)
  values.fill(Number.NaN, guardWords, guardWords + count)
  return { tensor: on.f32([values.length], values), shape }
}

function insideOf({ tensor, shape }: Guarded): Tensor {
  return { ...tensor, byteOffset: 4 * guardWords, shape }
}

function readGuarded(on: TestTensors, { tensor }: Guarded): Float32Array {
  const all = Float32Array.from(on.read(tensor))
  const guards = [...all.subarray(0, guardWords), ...all.subarray(-guardWords)]
  expect(guards).toEqual(guards.map(() => guardValue))
  return all.slice(guardWords, -guardWords)
}

interface RunOptions {
  readonly input?: Float32Array
  readonly prepare?: boolean
}

function run(device: Device, problem: Problem, options: RunOptions = {}): Float32Array {
  const on = new TestTensors(device)
  const weight = placeWeight(on, problem, randomWeight(problem))
  if (options.prepare && device instanceof CpuDevice) device.prepare(weight)
  const values = options.input ?? randomInput(problem)
  const rows = values.length / problem.width
  const input = on.f32([rows, problem.width], values)
  const output = guardedOutput(on, [rows, problem.outputs])
  const parts = [{ weight, output: insideOf(output) }]
  linear(device, { input, quantise: problem.quantise, parts })
  return readGuarded(on, output)
}

/**
 * Σ_i bound(x_i)·|w_i| and Σ_i |x_i·w_i| an output, from the reference's own decoding: the reference
 * multiplies |weights| with whatever input it is given.
 */
function absoluteSums(problem: Problem, input: Float32Array): Float32Array {
  const bytes = randomWeight(problem)
  const device = new ReferenceDevice()
  const on = new TestTensors(device)
  const weight = placeWeight(on, problem, {
    ...bytes,
    codes: magnitudes(problem.format, bytes.codes),
  })
  const output = on.empty('f32', [problem.rows, problem.outputs])
  const given = on.f32([problem.rows, problem.width], input)
  linear(device, { input: given, quantise: false, parts: [{ weight, output }] })
  return Float32Array.from(on.read(output))
}

function magnitudes(format: Format, codes: Uint8Array): Uint8Array {
  const signs = { fp4: [0x77], f8e4m3: [0x7f], bf16: [0xff, 0x7f], f32: [0xff, 0xff, 0xff, 0x7f] }
  const mask = signs[format]
  return codes.map((code, i) => code & (mask[i % mask.length] ?? 0))
}

const unit = 2 ** -24

/**
 * How far each output may be from the exact sum; S = Σ|x·w|, u = 2^-24.
 *
 * FP4: an input is off by half a unit of its run of 32, amax·2^-22 in three limbs, amax/254 in one.
 * Integer sums are exact, so what remains is one rounding for each run's conversion, its scale and
 * its addition: (width/32 + 3)·u·S.
 * Others, fp32 inputs: 32 steps of a chain, each two roundings without fused instructions, two
 * additions, one addition a block of 128: (68 + width/128)·u·S.
 * bfloat16 inputs: 2^-8 of each input unless FP8 rounding came before; a pair is up to three
 * roundings, sixteen pairs a chain: (56 + width/128)·u·S.
 * The reference rounds its double to fp32: u·|y|. FP8 rounding of inputs is the same on both sides.
 */
function bounds(problem: Problem, numerics: Numerics, input: Float32Array): Float64Array {
  const { format, width, quantise } = problem
  const sums = absoluteSums(problem, input.map(Math.abs))
  const perStep = (format === 'fp4' ? width / 32 + 3 : 68 + width / 128) * unit
  // FP8 rounding may enlarge an input by one part in sixteen.
  const total = Float64Array.from(sums, (sum) => sum * (quantise ? 1.07 : 1) * (perStep + unit))
  const coarse = inputErrors(problem, numerics, input)
  if (coarse === null) return total
  const errors = absoluteSums(problem, coarse)
  return total.map((bound, i) => bound + 1.001 * (errors[i] ?? 0))
}

function inputErrors(
  { format, width, quantise }: Problem,
  numerics: Numerics,
  input: Float32Array,
): Float32Array | null {
  if (format === 'fp4') {
    const part = (numerics === 'exact' ? 2 ** -22 : 1 / 254) * (quantise ? 1.07 : 1)
    return input.map((_, i) => {
      const row = i - (i % width)
      const from = row + Math.floor((i % width) / 32) * 32
      let largest = 0
      for (let k = from; k < from + 32; k++) largest = Math.max(largest, Math.abs(input[k] ?? 0))
      return largest * part
    })
  }
  const rounded = numerics === 'fast' && (format === 'bf16' || (format === 'f8e4m3' && !quantise))
  return rounded ? input.map((value) => Math.abs(value) * 2 ** -8) : null
}

const shapes: readonly (readonly [rows: number, outputs: number, width: number])[] = [
  [1, 16, 128],
  [1, 65, 384],
  [2, 17, 128],
  [3, 48, 640],
  [4, 1, 256],
  [5, 31, 128],
  [7, 33, 1152],
  [16, 64, 256],
  [17, 80, 128],
  [33, 16, 384],
  [130, 40, 128],
]

/** Widths that end inside a block of 128, a group of four or a pair; FP4 only knows runs of 32. */
const oddWidths: Readonly<Record<Format, readonly number[]>> = {
  fp4: [32, 96, 160],
  f8e4m3: [1, 4, 100, 130, 259],
  bf16: [1, 2, 6, 36, 129, 252],
  f32: [1, 3, 20, 127, 260],
}

const isaList: readonly Isa[] = ['portable', 'avx2', 'avx512', 'best']
const numericsList: readonly Numerics[] = ['exact', 'fast']

describe.skipIf(addon === null)('native linear', () => {
  const open = (isa: Isa, numerics: Numerics): CpuDevice => {
    if (addon === null) throw new Error('skipped')
    return new CpuDevice(addon, { threads: 2, isa, numerics })
  }

  function expectNear(problem: Problem, isa: Isa, numerics: Numerics, prepare: boolean): void {
    const input = randomInput(problem)
    const expected = run(new ReferenceDevice(), problem)
    const device = open(isa, numerics)
    const found = run(device, problem, { prepare })
    device.close()
    const allowed = bounds(problem, numerics, input)
    const label = JSON.stringify({ ...problem, isa, numerics, prepare })
    expect(found.length).toBe(expected.length)
    for (const [i, value] of found.entries()) {
      const error = Math.abs(value - (expected[i] ?? Number.NaN))
      // Negated, so that NaN fails.
      if (!(error <= (allowed[i] ?? 0))) {
        expect.fail(`${label}: output ${i} is ${value}, not ${expected[i]} ± ${allowed[i]}`)
      }
    }
  }

  for (const isa of isaList) {
    for (const numerics of numericsList) {
      it(`stays within its bound of the reference: ${isa}, ${numerics}`, () => {
        let seed = 1
        for (const format of formats) {
          for (const [rows, outputs, width] of shapes) {
            const problem = { format, rows, outputs, width, seed: seed++ }
            const quantise = seed % 2 === 0
            expectNear({ ...problem, quantise }, isa, numerics, seed % 3 !== 0)
          }
        }
      })

      it(`takes widths of any remainder, prepared or not: ${isa}, ${numerics}`, () => {
        for (const format of formats) {
          for (const width of oddWidths[format]) {
            for (const rows of [1, 6]) {
              const problem = { format, rows, outputs: 37, width, seed: width, quantise: false }
              expectNear(problem, isa, numerics, true)
              expectNear(problem, isa, numerics, false)
            }
          }
        }
      })

      it(`gives a row the same bits alone, among others and prepared: ${isa}, ${numerics}`, () => {
        for (const format of formats) {
          const problem = { format, rows: 147, outputs: 50, width: 256, seed: 9, quantise: false }
          const input = randomInput(problem)
          const device = open(isa, numerics)
          const together = run(device, problem, { prepare: true })
          for (const [row, count] of [
            [0, 1],
            [1, 2],
            [40, 3],
            [130, 17],
            [146, 1],
          ] as const) {
            const part = input.slice(row * problem.width, (row + count) * problem.width)
            const alone = run(device, problem, { input: part })
            const expected = together.slice(row * 50, (row + count) * 50)
            expect(alone, `${format}, rows ${row}…${row + count}`).toEqual(expected)
          }
          device.close()
        }
      })
    }
  }

  it('passes NaN and infinity on to every output of their row and to no other', () => {
    for (const format of formats) {
      for (const [isa, numerics] of isaList.flatMap((i) =>
        numericsList.map((n) => [i, n] as const),
      )) {
        for (const value of [Number.NaN, Infinity, -Infinity]) {
          const problem = { format, rows: 3, outputs: 32, width: 128, seed: 3, quantise: false }
          const input = randomInput(problem)
          input[128 + 77] = value
          const device = open(isa, numerics)
          const found = run(device, problem, { input, prepare: true })
          device.close()
          const finite = Array.from(found, Number.isFinite)
          // A weight that is zero makes NaN of infinity, any other keeps it: never a finite number.
          expect(finite).toEqual(finite.map((_, i) => i < 32 || i >= 64))
        }
      }
    }
  })

  it('keeps zeros, subnormals and the largest inputs in every format', () => {
    for (const format of formats) {
      const problem = { format, rows: 4, outputs: 16, width: 128, seed: 5, quantise: false }
      const input = new Float32Array(4 * 128)
      input.fill(1e-42, 128, 256)
      input.fill(1e30, 256, 384)
      input.fill(-(2 ** -100), 384, 512)
      for (const isa of isaList) {
        const device = open(isa, 'exact')
        const found = run(device, problem, { input, prepare: true })
        device.close()
        const expected = run(new ReferenceDevice(), problem, { input })
        for (const [i, value] of found.entries()) {
          const row = Math.floor(i / 16)
          // A row of n·u: relative for what is large, below every unit for what is subnormal.
          const allowed = row <= 1 ? 2 ** -110 : 128 * 1e-3 * Math.abs(input[row * 128] ?? 0)
          expect(Math.abs(value - (expected[i] ?? 0))).toBeLessThanOrEqual(allowed)
        }
        expect(found.subarray(0, 16)).toEqual(new Float32Array(16))
      }
    }
  })

  it('decodes every FP8 and FP4 code under the smallest and largest scales', () => {
    for (const isa of isaList) {
      for (const scale of [1, 60, 127, 190]) {
        const device = open(isa, 'exact')
        const on = new TestTensors(device)
        // Row o of the identity picks column o: the output is the decoded weight itself.
        const codes = Uint8Array.from({ length: 256 }, (_, c) => ((c & 127) === 127 ? 0 : c))
        const fp8 = {
          weight: on.bytes('f8e4m3', [64, 4], codes),
          scale: on.bytes('e8m0', [1, 1], [scale]),
        }
        const output = on.empty('f32', [4, 64])
        const identity = Float32Array.from({ length: 16 }, (_, i) => (i % 5 === 0 ? 1 : 0))
        const input = on.f32([4, 4], identity)
        linear(device, { input, quantise: false, parts: [{ weight: fp8, output }] })
        const found = on.read(output)
        device.close()
        const expected = found.map((_, i) => {
          const code = codes[(i % 64) * 4 + Math.floor(i / 64)] ?? 0
          return Math.fround((e4m3Values[code] ?? 0) * 2 ** (scale - 127)) + 0
        })
        expect(found.map((value) => value + 0)).toEqual(expected)
      }
    }
  })

  it('multiplies several weights by one input in one call', () => {
    for (const quantise of [false, true]) {
      const problems = formats.map((format, i): Problem => {
        return { format, rows: 3, outputs: 20 + 16 * i, width: 128, seed: 11, quantise }
      })
      const device = open('best', 'fast')
      const on = new TestTensors(device)
      const values = new Random(11, 'shared input')
      const input = Float32Array.from({ length: 3 * 128 }, () => values.normal())
      const parts = problems.map((problem) => ({
        weight: placeWeight(on, problem, randomWeight(problem)),
        output: on.empty('f32', [3, problem.outputs]),
      }))
      linear(device, { input: on.f32([3, 128], input), quantise, parts })
      const together = parts.map(({ output }) => on.read(output))
      const alone = problems.map((problem) => [...run(device, problem, { input })])
      expect(together).toEqual(alone)
      device.close()
    }
  })
})
