import { strict as assert } from 'node:assert'
import type { KernelArg } from './launch.ts'

const firstBytes = 4096
const argsMax = 64
/** No kernel parameter needs more. */
const alignment = 16

/**
 * Kernel parameters as the driver reads them: an array of addresses into one block of bytes. Both are
 * used again by the next launch, since the driver copies them before it returns.
 */
export class KernelArguments {
  /** Address of each parameter, in order. */
  readonly pointers = new BigUint64Array(argsMax)
  readonly #addressOf: (memory: Uint8Array) => bigint
  #bytes = new Uint8Array(firstBytes)
  #base: bigint
  #view = new DataView(this.#bytes.buffer)

  /** `addressOf` gives where a typed array's memory lies; it does not move. */
  constructor(addressOf: (memory: Uint8Array) => bigint) {
    this.#addressOf = addressOf
    this.#base = addressOf(this.#bytes)
  }

  pack(args: readonly KernelArg[]): void {
    assert(args.length <= argsMax, `a kernel has at most ${argsMax} parameters`)
    this.#makeRoom(args)
    let at = Number(-this.#base & BigInt(alignment - 1))
    for (const [index, arg] of args.entries()) {
      this.pointers[index] = this.#base + BigInt(at)
      at += alignment * Math.ceil(this.#put(at, arg) / alignment)
    }
  }

  /** Writes one and says how many bytes it took. */
  #put(at: number, arg: KernelArg): number {
    const view = this.#view
    switch (arg.as) {
      case 'pointer':
      case 'u64':
        view.setBigUint64(at, arg.value, true)
        return 8
      case 'i64':
        view.setBigInt64(at, arg.value, true)
        return 8
      case 'i32':
        assertInteger(arg.value, -(2 ** 31), 2 ** 31)
        view.setInt32(at, arg.value, true)
        return 4
      case 'u32':
        assertInteger(arg.value, 0, 2 ** 32)
        view.setUint32(at, arg.value, true)
        return 4
      case 'f32':
        view.setFloat32(at, arg.value, true)
        return 4
      case 'struct':
        this.#bytes.set(arg.value, at)
        return arg.value.byteLength
      default:
        return arg satisfies never
    }
  }

  #makeRoom(args: readonly KernelArg[]): void {
    let bytes = alignment
    for (const arg of args) {
      const size = arg.as === 'struct' ? arg.value.byteLength : alignment
      bytes += alignment * Math.ceil(size / alignment)
    }
    if (bytes <= this.#bytes.length) return
    this.#bytes = new Uint8Array(2 * bytes)
    this.#base = this.#addressOf(this.#bytes)
    this.#view = new DataView(this.#bytes.buffer)
  }
}

function assertInteger(value: number, from: number, end: number): void {
  assert(Number.isInteger(value) && value >= from && value < end, `${value} fits its parameter`)
}
