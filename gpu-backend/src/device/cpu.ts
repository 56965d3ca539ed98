import {
  isas,
  type Isa,
  type NativeAddon,
  type NativeDevice,
  type Numerics,
  numericsModes,
} from '../kernels/native/addon.ts'
import { packers } from '../kernels/native/packers.ts'
import { type PackOp, WordList } from '../kernels/native/words.ts'
import type { OpTable } from '../kernels/registry.ts'
import {
  type Device,
  DeviceError,
  type DeviceErrorCode,
  type DeviceFormats,
  type DeviceMemory,
} from './device.ts'
import { PackedWeights } from './packed-weights.ts'
import type { DeviceBuffer, LinearWeight } from './tensor.ts'

export interface CpuOptions {
  /** Threads the ops run on, the caller's included; absent: as many as the process may use. */
  readonly threads?: number
  /** An instruction set below the machine's best, for tests. */
  readonly isa?: Isa
  readonly numerics?: Numerics
}

/** Words of ops kept back before they are run on their own. */
const pendingWordsMax = 16_384

/**
 * The native addon as a device. Ops are gathered and run, all of them, by the first call that needs
 * their results or whose effect they must not see: `read`, `write`, `free`, `synchronise`.
 */
export class CpuDevice implements Device {
  readonly name = 'cpu'
  readonly formats: DeviceFormats = {
    activations: 'f32',
    keys: 'f32',
    indexKeys: 'f32',
    compactRows: true,
  }
  readonly numerics: Numerics
  readonly #addon: NativeAddon
  readonly #device: NativeDevice
  readonly #opNumbers: ReadonlyMap<string, number>
  readonly #packed = new PackedWeights()
  readonly #pending = new WordList((weight) => this.#packed.has(weight))
  #closed = false

  constructor(addon: NativeAddon, options: CpuOptions = {}) {
    const { threads = 0, isa = 'best', numerics = 'exact' } = options
    this.#addon = addon
    this.numerics = numerics
    this.#device = addon.create(threads, isas[isa], numericsModes[numerics])
    this.#opNumbers = new Map(addon.ops().map((op, number) => [op, number]))
  }

  /** The instruction set its kernels use. */
  get isa(): string {
    this.#assertOpen()
    return this.#addon.isa(this.#device)
  }

  get threads(): number {
    this.#assertOpen()
    return this.#addon.threads(this.#device)
  }

  alloc(bytes: number, label: string): DeviceBuffer {
    this.#assertOpen()
    if (!Number.isSafeInteger(bytes) || bytes <= 0) {
      throw this.#error('out_of_range', `cannot allocate ${bytes} bytes for ${label}`)
    }
    return this.#native(label, () => this.#addon.alloc(this.#device, bytes)) as DeviceBuffer
  }

  free(buffer: DeviceBuffer): void {
    this.#flush()
    this.#native('free', () => this.#addon.free(this.#device, buffer))
    this.#packed.forget(buffer)
  }

  write(buffer: DeviceBuffer, offset: number, bytes: Uint8Array): void {
    this.#flush()
    this.#refusePacked(buffer, offset, bytes.byteLength)
    this.#native('write', () => this.#addon.write(this.#device, buffer, offset, bytes))
  }

  read(buffer: DeviceBuffer, offset: number, into: Uint8Array): void {
    this.#flush()
    this.#refusePacked(buffer, offset, into.byteLength)
    this.#native('read', () => this.#addon.read(this.#device, buffer, offset, into))
  }

  /**
   * Rearranges a weight that has been written completely into the panels its kernels read, in place.
   * Afterwards only ops may use its bytes. Without it results are the same, but each use rearranges
   * the weight anew. False where the shape does not allow it.
   */
  prepare(linear: LinearWeight): boolean {
    this.#assertOpen()
    if (!this.#packed.canHold(linear)) return false
    if (this.#packed.has(linear)) return true
    this.#begin('pack')
    this.#pending.weight(linear)
    this.#pending.end()
    this.#flush()
    this.#packed.add(linear)
    return true
  }

  run<Op extends keyof OpTable>(op: Op, args: OpTable[Op]): void {
    this.#assertOpen()
    const pack: PackOp<OpTable[Op]> | undefined = packers[op]
    if (pack === undefined) throw this.#error('unsupported_op', `there is no op ${op}`)
    this.#begin(op)
    try {
      pack(this.#pending, args)
    } catch (error) {
      // Half an op would make the list unreadable for those after it.
      this.#pending.abandon()
      throw error
    }
    this.#pending.end()
    if (this.#pending.count > pendingWordsMax) this.#flush()
  }

  synchronise(): void {
    this.#flush()
  }

  memory(): DeviceMemory {
    this.#assertOpen()
    const numbers = new Float64Array(3)
    this.#addon.memory(this.#device, numbers)
    const [allocatedBytes = 0, peakBytes = 0, buffers = 0] = numbers
    return { allocatedBytes, peakBytes, buffers }
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.#addon.destroy(this.#device)
  }

  #begin(op: string): void {
    const number = this.#opNumbers.get(op)
    if (number === undefined) throw this.#error('unsupported_op', `the addon has no op ${op}`)
    this.#pending.begin(number)
  }

  #flush(): void {
    this.#assertOpen()
    const { words, count } = this.#pending
    if (count === 0) return
    this.#pending.clear()
    this.#native('run', () => this.#addon.run(this.#device, words, count))
  }

  #refusePacked(buffer: DeviceBuffer, offset: number, bytes: number): void {
    if (!this.#packed.overlaps(buffer, offset, bytes)) return
    throw this.#error(
      'out_of_range',
      `bytes ${offset}…${offset + bytes} of buffer ${buffer} belong to a weight that was prepared`,
    )
  }

  /** Calls into the addon; its errors become `DeviceError`. */
  #native<T>(what: string, call: () => T): T {
    try {
      return call()
    } catch (cause) {
      if (!(cause instanceof Error) || !('code' in cause)) throw cause
      const code = deviceCodes.find((candidate) => candidate === cause.code)
      if (code === undefined) throw cause
      throw new DeviceError(code, this.name, `${what}: ${cause.message}`, { cause })
    }
  }

  #assertOpen(): void {
    if (this.#closed) throw this.#error('device_closed', 'the device was closed')
  }

  #error(code: DeviceErrorCode, message: string): DeviceError {
    return new DeviceError(code, this.name, message)
  }
}

const deviceCodes: readonly DeviceErrorCode[] = [
  'device_unavailable',
  'unsupported_op',
  'unknown_buffer',
  'out_of_range',
  'out_of_memory',
  'device_closed',
]
