import type { CpuDevice } from '../src/device/cpu.ts'
import type { LinearWeight } from '../src/device/tensor.ts'
import { linear, type LinearArgs } from '../src/kernels/linear/linear.ts'
import { timed } from './bench.ts'
import { allocTensor, type Format, randomWeights } from './weights.ts'

/** Inputs and outputs of every weight measured. */
export const size = 4096
/** Bytes of weights a pass goes through: far more than any cache holds. */
export const workingSetBytes: number = 352 * 2 ** 20

const codeBytes: Readonly<Record<Format, number>> = { fp4: 0.5, f8e4m3: 1, bf16: 2 }
const scaleBytes: Readonly<Record<Format, number>> = {
  fp4: (size * size) / 32,
  f8e4m3: (size / 128) ** 2,
  bf16: 0,
}

/** Enough prepared weights of one format to fill the working set. */
export function workingSet(device: CpuDevice, format: Format): readonly LinearWeight[] {
  const count = Math.ceil(workingSetBytes / (size * size * codeBytes[format]))
  const weights = randomWeights(device, format, [size, size], count)
  for (const weight of weights) device.prepare(weight)
  return weights
}

/** Multiplications of one slice: some milliseconds, less than a scheduler's turn. */
const sliceMultiplications = 1.2e9
/** Bytes of one slice where memory is the limit. */
const sliceBytes = 48 * 2 ** 20

/** One kind of linear: `rows` input rows against weights of one format. */
export class LinearCase {
  readonly rows: number
  readonly format: Format
  readonly #device: CpuDevice
  readonly #calls: readonly LinearArgs[]
  readonly #callsEach: number
  #next = 0

  constructor(device: CpuDevice, weights: readonly LinearWeight[], format: Format, rows: number) {
    this.rows = rows
    this.format = format
    this.#device = device
    const input = allocTensor(device, 'f32', [rows, size])
    const values = Float32Array.from({ length: rows * size }, (_, i) => Math.sin(i))
    device.write(input.buffer, 0, new Uint8Array(values.buffer))
    const output = allocTensor(device, 'f32', [rows, size])
    this.#calls = weights.map((weight) => ({ input, quantise: false, parts: [{ weight, output }] }))
    const each =
      rows === 1 ? sliceBytes / this.#weightBytes : sliceMultiplications / (rows * size ** 2)
    this.#callsEach = Math.max(1, Math.round(each))
  }

  get name(): string {
    return `${this.format} m=${this.rows}`
  }

  /** Seconds of one slice; slices go round the working set, so that no weight is still in a cache. */
  slice(): number {
    const calls = Array.from(
      { length: this.#callsEach },
      (_, i) => this.#calls[(this.#next + i) % this.#calls.length],
    )
    this.#next += this.#callsEach
    return timed(() => {
      for (const call of calls) if (call !== undefined) linear(this.#device, call)
      this.#device.synchronise()
    })
  }

  /** Of codes and scales, read in a slice. */
  get bytes(): number {
    return this.#callsEach * this.#weightBytes
  }

  /** In a slice. */
  get multiplications(): number {
    return this.#callsEach * this.rows * size ** 2
  }

  get #weightBytes(): number {
    return size ** 2 * codeBytes[this.format] + scaleBytes[this.format]
  }
}
