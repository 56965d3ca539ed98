import type { Device, DeviceFormats, DeviceMemory, DeviceName } from '../../device/device.ts'
import type { DeviceBuffer, Tensor } from '../../device/tensor.ts'
import type { OpName, OpTable } from '../registry.ts'

interface RecordedStep {
  readonly ops: readonly (() => void)[]
  readonly buffers: ReadonlySet<DeviceBuffer>
  readonly result: unknown
}

/**
 * Any device with recorded steps: the ops of a step, with the arguments they were given when it was
 * recorded, are what a replay runs. Shows without a GPU that a step says nothing but by its tensors.
 */
export class ReplayingDevice implements Device {
  readonly name: DeviceName
  readonly formats: DeviceFormats
  replays = 0
  readonly #inner: Device
  readonly #steps = new Map<string, RecordedStep>()
  #recording: { readonly ops: (() => void)[]; readonly buffers: Set<DeviceBuffer> } | null = null

  constructor(inner: Device) {
    this.name = inner.name
    this.formats = inner.formats
    this.#inner = inner
  }

  alloc(bytes: number, label: string): DeviceBuffer {
    return this.#inner.alloc(bytes, label)
  }

  free(buffer: DeviceBuffer): void {
    for (const [key, { buffers }] of this.#steps) if (buffers.has(buffer)) this.#steps.delete(key)
    this.#inner.free(buffer)
  }

  write(buffer: DeviceBuffer, offset: number, bytes: Uint8Array): void {
    this.#inner.write(buffer, offset, bytes)
  }

  read(buffer: DeviceBuffer, offset: number, into: Uint8Array): void {
    this.#inner.read(buffer, offset, into)
  }

  run<Op extends OpName>(op: Op, args: OpTable[Op]): void {
    this.#recording?.ops.push(() => this.#inner.run(op, args))
    if (this.#recording !== null) addBuffers(args, this.#recording.buffers)
    this.#inner.run(op, args)
  }

  replay<T>(key: string, body: () => T): T {
    const known = this.#steps.get(key)
    if (known !== undefined) {
      this.replays++
      for (const op of known.ops) op()
      // What this key's own body gave when it was recorded.
      return known.result as T
    }
    const recording = { ops: [], buffers: new Set<DeviceBuffer>() }
    this.#recording = recording
    const result = body()
    this.#recording = null
    this.#steps.set(key, { ...recording, result })
    return result
  }

  synchronise(): void {
    this.#inner.synchronise()
  }

  memory(): DeviceMemory {
    return this.#inner.memory()
  }

  close(): void {
    this.#inner.close()
  }
}

function addBuffers(value: unknown, into: Set<DeviceBuffer>): void {
  if (typeof value !== 'object' || value === null) return
  if ('buffer' in value) into.add((value as Tensor).buffer)
  for (const part of Object.values(value)) addBuffers(part, into)
}
