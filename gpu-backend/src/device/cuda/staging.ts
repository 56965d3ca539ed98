import type { CudaContext } from './context.ts'

/** Large enough that a copy runs at the bus's speed, and few enough to be pinned without asking. */
const slotBytes = 4 * 2 ** 20
const slotCount = 4
const alignment = 16

interface Slot {
  readonly address: bigint
  readonly memory: Uint8Array
  readonly event: bigint
  /** Its last copies may still be on their way. */
  inFlight: boolean
}

/**
 * Pinned host memory through which bytes reach a GPU and come back. Bytes to be written are copied
 * into the ring, so the caller's may change at once; a slot is used again only once the copies out of
 * it have ended.
 */
export class Staging {
  readonly #context: CudaContext
  readonly #slots: Slot[] = []
  /** The caller's memory by its array buffer, and where the driver knows it. */
  readonly #pinned = new Map<ArrayBufferLike, bigint>()
  #current = 0
  #used = 0

  constructor(context: CudaContext) {
    this.#context = context
    for (let i = 0; i < slotCount; i++) {
      const address = context.handleOf('cuMemHostAlloc', slotBytes, 0)
      const memory = context.driver.view(address, slotBytes)
      this.#slots.push({ address, memory, event: context.createEvent(), inFlight: false })
    }
  }

  /** Host to device, in stream order; `bytes` may be reused when this returns. */
  write(target: bigint, bytes: Uint8Array): void {
    const own = this.#pinned.get(bytes.buffer)
    if (own !== undefined) {
      const from = own + BigInt(bytes.byteOffset)
      const { stream } = this.#context
      this.#context.call('cuMemcpyHtoDAsync_v2', target, from, bytes.length, stream)
      return
    }
    for (let at = 0; at < bytes.length;) {
      const slot = this.#slotFor(Math.min(bytes.length - at, slotBytes))
      const part = bytes.subarray(at, at + slotBytes)
      slot.memory.set(part, this.#used)
      this.#context.call(
        'cuMemcpyHtoDAsync_v2',
        target + BigInt(at),
        slot.address + BigInt(this.#used),
        part.length,
        this.#context.stream,
      )
      slot.inFlight = true
      this.#used += alignment * Math.ceil(part.length / alignment)
      at += part.length
    }
  }

  /** Device to host, once everything before it has run. */
  read(source: bigint, into: Uint8Array): void {
    const own = this.#pinned.get(into.buffer)
    if (own !== undefined) {
      const to = own + BigInt(into.byteOffset)
      this.#context.call('cuMemcpyDtoHAsync_v2', to, source, into.length, this.#context.stream)
      this.#context.synchronise()
      return
    }
    for (let at = 0; at < into.length; at += slotBytes) {
      const bytes = Math.min(slotBytes, into.length - at)
      const slot = this.#slotFor(bytes)
      const host = slot.address + BigInt(this.#used)
      const from = source + BigInt(at)
      this.#context.call('cuMemcpyDtoHAsync_v2', host, from, bytes, this.#context.stream)
      this.#context.synchronise()
      into.set(slot.memory.subarray(this.#used, this.#used + bytes), at)
    }
  }

  /** Pinned memory of the caller's own, until this is closed. */
  pinned(bytes: number): Uint8Array {
    const address = this.#context.handleOf('cuMemHostAlloc', bytes, 0)
    const memory = this.#context.driver.view(address, bytes)
    this.#pinned.set(memory.buffer, address)
    return memory
  }

  close(): void {
    for (const address of this.#pinned.values()) this.#context.call('cuMemFreeHost', address)
    this.#pinned.clear()
    for (const { address, event } of this.#slots) {
      this.#context.call('cuEventDestroy_v2', event)
      this.#context.call('cuMemFreeHost', address)
    }
    this.#slots.length = 0
  }

  /** A slot with `bytes` free from `#used` on. */
  #slotFor(bytes: number): Slot {
    const current = this.#slot(this.#current)
    if (this.#used + bytes <= slotBytes) return current
    this.#context.call('cuEventRecord', current.event, this.#context.stream)
    this.#current = (this.#current + 1) % slotCount
    this.#used = 0
    const next = this.#slot(this.#current)
    if (next.inFlight) this.#context.call('cuEventSynchronize', next.event)
    next.inFlight = false
    return next
  }

  #slot(index: number): Slot {
    const slot = this.#slots[index]
    if (slot === undefined) throw new RangeError('staging memory was given back')
    return slot
  }
}
