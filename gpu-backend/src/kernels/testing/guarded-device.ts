import {
  type Device,
  DeviceError,
  type DeviceFormats,
  type DeviceMemory,
  type DeviceName,
} from '../../device/device.ts'
import type { DeviceBuffer, LinearWeight, Tensor } from '../../device/tensor.ts'
import type { OpName, OpTable } from '../registry.ts'

/** Bytes before and behind every buffer; a multiple of every alignment a kernel may count on. */
export const guardBytes = 256

/**
 * What stands in the guards and in memory nobody wrote: NaN as f32 and as both halves in bf16, and
 * far beyond any index as i32. What is read without having been written shows like what was not
 * written at all.
 */
const guard = repeated(0x7fb1_7f9b, guardBytes)
export const rubbishWords: readonly [number, number] = [0x7fc5_7fa5, 0x7fd3_7fb9]

/** An op wrote outside a buffer it was given. */
export class GuardError extends Error {
  readonly op: OpName

  constructor(op: OpName, message: string) {
    super(message)
    this.name = 'GuardError'
    this.op = op
  }
}

interface Guarded {
  readonly label: string
  readonly bytes: number
}

/**
 * Any device with guard words round every buffer, checked after every op, and with rubbish in every
 * new buffer. Handles are the inner device's own; only offsets move.
 */
export class GuardedDevice implements Device {
  readonly name: DeviceName
  readonly formats: DeviceFormats
  readonly #inner: Device
  readonly #rubbish: Uint8Array
  readonly #buffers = new Map<DeviceBuffer, Guarded>()
  #opsRun = 0

  /** `rubbish`: a word of `rubbishWords`. Results may not depend on which. */
  constructor(inner: Device, rubbish: number = rubbishWords[0]) {
    this.name = inner.name
    this.formats = inner.formats
    this.#inner = inner
    this.#rubbish = repeated(rubbish, 2 ** 16)
  }

  /** Ops that reached the device. */
  get opsRun(): number {
    return this.#opsRun
  }

  alloc(bytes: number, label: string): DeviceBuffer {
    const buffer = this.#inner.alloc(bytes + 2 * guardBytes, label)
    this.#buffers.set(buffer, { label, bytes })
    this.#inner.write(buffer, 0, guard)
    this.#inner.write(buffer, guardBytes + bytes, guard)
    for (let at = 0; at < bytes; at += this.#rubbish.length) {
      const part = this.#rubbish.subarray(0, bytes - at)
      this.#inner.write(buffer, guardBytes + at, part)
    }
    return buffer
  }

  free(buffer: DeviceBuffer): void {
    this.#buffers.delete(buffer)
    this.#inner.free(buffer)
  }

  write(buffer: DeviceBuffer, offset: number, bytes: Uint8Array): void {
    this.#assertInside(buffer, offset, bytes.length)
    this.#inner.write(buffer, guardBytes + offset, bytes)
  }

  read(buffer: DeviceBuffer, offset: number, into: Uint8Array): void {
    this.#assertInside(buffer, offset, into.length)
    this.#inner.read(buffer, guardBytes + offset, into)
  }

  run<Op extends OpName>(op: Op, args: OpTable[Op]): void {
    this.#opsRun++
    this.#inner.run(op, shifted(args))
    for (const [buffer, guarded] of this.#buffers) this.#checkGuards(op, buffer, guarded)
  }

  prepare(weight: LinearWeight): boolean {
    return this.#inner.prepare?.(shifted(weight)) ?? false
  }

  synchronise(): void {
    this.#inner.synchronise()
  }

  memory(): DeviceMemory {
    return this.#inner.memory()
  }

  close(): void {
    this.#buffers.clear()
    this.#inner.close()
  }

  #checkGuards(op: OpName, buffer: DeviceBuffer, { label, bytes }: Guarded): void {
    for (const [side, at] of [
      ['before', 0],
      ['behind', guardBytes + bytes],
    ] as const) {
      const found = new Uint8Array(guardBytes)
      this.#inner.read(buffer, at, found)
      if (Buffer.compare(found, guard) === 0) continue
      const wrong = found.findIndex((byte, i) => byte !== guard[i])
      const distance = side === 'before' ? guardBytes - wrong : wrong
      throw new GuardError(
        op,
        `${op} wrote outside ${label} (${bytes} bytes): ${distance} bytes ${side} it`,
      )
    }
  }

  #assertInside(buffer: DeviceBuffer, offset: number, bytes: number): void {
    const guarded = this.#buffers.get(buffer)
    // The inner device has the better message for a handle it does not know.
    if (guarded === undefined || (offset >= 0 && offset + bytes <= guarded.bytes)) return
    const range = `${offset}…${offset + bytes}`
    const message = `bytes ${range} are outside ${guarded.label} of ${guarded.bytes}`
    throw new DeviceError('out_of_range', this.name, message)
  }
}

function repeated(word: number, bytes: number): Uint8Array {
  return new Uint8Array(new Uint32Array(bytes / 4).fill(word).buffer)
}

/** The same arguments with every tensor in them moved behind its buffer's front guard. */
function shifted<T>(value: T): T {
  if (typeof value !== 'object' || value === null) return value
  const copy: unknown = isTensor(value)
    ? { ...value, byteOffset: value.byteOffset + guardBytes }
    : Array.isArray(value)
      ? value.map(shifted)
      : Object.fromEntries(Object.entries(value).map(([name, part]) => [name, shifted(part)]))
  // The same members with the same types, only offsets differ.
  return copy as T
}

function isTensor(value: object): value is Tensor {
  return 'buffer' in value && 'byteOffset' in value && 'dtype' in value
}
