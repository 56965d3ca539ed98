import {
  isas,
  type NativeAddon,
  type NativeDevice,
  numericsModes,
} from '../src/kernels/native/addon.ts'
import { WordList } from '../src/kernels/native/words.ts'
import type { DeviceBuffer, Tensor } from '../src/device/tensor.ts'
import { timed } from './bench.ts'

/** Memory that is read, several times a last-level cache, and how much of it a slice reads. */
const memoryBytes = 384 * 2 ** 20
const sliceBytes = 48 * 2 ** 20
/** A slice of dot products takes two or three milliseconds. */
const multiplications = 1_000_000_000

/** What the machine reads and multiplies at most, measured whenever it is asked for. */
export class Yardsticks {
  readonly #addon: NativeAddon
  readonly #device: NativeDevice
  readonly #memory: Tensor
  readonly #result: Tensor
  #at = 0
  #readRateBest = 0
  #dotRateBest = 0

  constructor(addon: NativeAddon, threads: number) {
    this.#addon = addon
    this.#device = addon.create(threads, isas.best, numericsModes.exact)
    this.#memory = this.#alloc(memoryBytes / 8)
    this.#result = this.#alloc(1)
    const page = new Uint8Array(2 ** 21).fill(1)
    for (let at = 0; at < memoryBytes; at += page.length) {
      addon.write(this.#device, this.#memory.buffer, at, page)
    }
  }

  /** Bytes a second, read by all threads from memory on huge pages. */
  readRate(): number {
    this.#at = (this.#at + sliceBytes) % memoryBytes
    const slice = { ...this.#memory, byteOffset: this.#at, shape: [sliceBytes / 8] }
    const rate = sliceBytes / this.#run('probe-read', (words) => words.tensor(slice))
    this.#readRateBest = Math.max(this.#readRateBest, rate)
    return rate
  }

  /** int8 multiplications a second from registers; NaN without such an instruction. */
  dotRate(): number {
    try {
      const seconds = this.#run('probe-dots', (words) => words.number(multiplications))
      const rate = multiplications / seconds
      this.#dotRateBest = Math.max(this.#dotRateBest, rate)
      return rate
    } catch (error) {
      if (error instanceof Error && 'code' in error && error.code === 'unsupported_op')
        return Number.NaN
      throw error
    }
  }

  /** The best seen so far. */
  get best(): { readonly read: number; readonly dots: number } {
    return { read: this.#readRateBest, dots: this.#dotRateBest }
  }

  /** The best read rate in words. */
  describeRead(): string {
    return `read ${(this.#readRateBest / 1e9).toFixed(1)} GB/s`
  }

  close(): void {
    this.#addon.destroy(this.#device)
  }

  #alloc(words: number): Tensor {
    const buffer = this.#addon.alloc(this.#device, words * 8) as DeviceBuffer
    return { buffer, byteOffset: 0, dtype: 'i64', shape: [words] }
  }

  #run(op: string, write: (words: WordList) => void): number {
    const list = new WordList(() => false)
    list.begin(this.#addon.ops().indexOf(op))
    write(list)
    list.tensor(this.#result)
    list.end()
    return timed(() => this.#addon.run(this.#device, list.words, list.count))
  }
}
