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

/** One kind of linear: `rows` input rows against weights of one format. */
export class LinearCase {
  readonly rows: number
  readonly format: Format
  readonly #device: CpuDevice
  readonly #calls: readonly LinearArgs[]

  constructor(device: CpuDevice, weights: readonly LinearWeight[], format: Format, rows: number) {
    this.rows = rows
    this.format = format
    this.#device = device
    const input = allocTensor(device, 'f32', [rows, size])
    const values = Float32Array.from({ length: rows * size }, (_, i) => Math.sin(i))
    device.write(input.buffer, 0, new Uint8Array(values.buffer))
    const output = allocTensor(device, 'f32', [rows, size])
    // One row is bound by memory and goes through the whole working set, more rows by arithmetic.
    const count = rows === 1 ? weights.length : Math.max(1, Math.floor(64 / rows))
    this.#calls = weights
      .slice(0, count)
      .map((weight) => ({ input, quantise: false, parts: [{ weight, output }] }))
  }

  get name(): string {
    return `${this.format} m=${this.rows}`
  }

  /** Seconds of one pass. */
  pass(): number {
    return timed(() => {
      for (const call of this.#calls) linear(this.#device, call)
      this.#device.synchronise()
    })
  }

  /** Of codes and scales, read in a pass. */
  get bytes(): number {
    return this.#calls.length * (size * size * codeBytes[this.format] + scaleBytes[this.format])
  }

  /** In a pass. */
  get multiplications(): number {
    return this.#calls.length * this.rows * size * size
  }
}
