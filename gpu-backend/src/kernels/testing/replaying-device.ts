import type { DeviceBuffer, Tensor } from '../../device/tensor.ts'
import type { OpName, OpTable } from '../registry.ts'
import { PassingDevice } from './passing-device.ts'

interface RecordedStep {
  readonly ops: readonly (() => void)[]
  readonly buffers: ReadonlySet<DeviceBuffer>
  readonly result: unknown
}

/**
 * Any device with recorded steps: the ops of a step, with the arguments they were given when it was
 * recorded, are what a replay runs. Shows without a GPU that a step says nothing but by its tensors.
 */
export class ReplayingDevice extends PassingDevice {
  replays = 0
  readonly #steps = new Map<string, RecordedStep>()
  #recording: { readonly ops: (() => void)[]; readonly buffers: Set<DeviceBuffer> } | null = null

  override free(buffer: DeviceBuffer): void {
    for (const [key, { buffers }] of this.#steps) if (buffers.has(buffer)) this.#steps.delete(key)
    this.inner.free(buffer)
  }

  override run<Op extends OpName>(op: Op, args: OpTable[Op]): void {
    this.#recording?.ops.push(() => this.inner.run(op, args))
    if (this.#recording !== null) addBuffers(args, this.#recording.buffers)
    this.inner.run(op, args)
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
}

function addBuffers(value: unknown, into: Set<DeviceBuffer>): void {
  if (typeof value !== 'object' || value === null) return
  if ('buffer' in value) into.add((value as Tensor).buffer)
  for (const part of Object.values(value)) addBuffers(part, into)
}
