import { strict as assert } from 'node:assert'
import type { Device } from '../device/device.ts'
import {
  byteLength,
  type DeviceBuffer,
  type DType,
  type LinearWeight,
  type Tensor,
} from '../device/tensor.ts'
import type { ExpertWeights } from '../kernels/experts/experts.ts'
import { fp4Run, fp8Tile } from '../kernels/numerics/decode.ts'
import type { ModelShape } from './shape.ts'

// Routed experts of a model that does not fit on its device: slots on the device hold some of all
// layers' experts, host memory the rest. An expert that is needed changes places with the one in a
// slot that was not needed for longest, so that the host holds what is used least and nothing twice.

/** An expert's projections, by their names in a checkpoint. */
export const expertParts = ['w1', 'w3', 'w2'] as const
export type ExpertPart = (typeof expertParts)[number]

export interface ExpertCacheCounts {
  /** Experts that a step needed and found on the device, and that it had to bring. */
  readonly found: number
  readonly brought: number
  /** Of those brought, before their layer had begun: known from the tokens' ids. */
  readonly prefetched: number
}

/** One tensor of an expert: where it lies in a slot's stack and in an expert's bytes on the host. */
interface Piece {
  readonly stack: Tensor
  readonly bytes: number
  readonly offset: number
}

export class ExpertCache {
  /** Stacks `[slots, …]` that ops are given in place of a layer's own. */
  readonly stacks: ExpertWeights
  readonly slotCount: number
  readonly #device: Device
  readonly #expertCount: number
  readonly #layers = new Map<string, number>()
  readonly #pieces: ReadonlyMap<string, Piece>
  readonly #expertBytes: number
  readonly #buffers: DeviceBuffer[] = []
  /** Expert in each slot, −1 where none is yet; when the slot was last needed. */
  readonly #occupants: Int32Array
  readonly #neededAt: Float64Array
  readonly #slots = new Map<number, number>()
  readonly #host = new Map<number, Uint8Array>()
  #spare: Uint8Array
  #clock = 0
  #found = 0
  #brought = 0
  #prefetched = 0

  constructor(device: Device, shape: ModelShape, slotCount: number) {
    assert(slotCount >= shape.expertsPerToken, 'a token finds room for all its experts at once')
    this.#device = device
    this.#expertCount = shape.expertCount
    this.slotCount = slotCount
    for (const [index, { name }] of shape.layers.entries()) this.#layers.set(name, index)
    const { expertWidth, hiddenSize, expertDtype } = shape
    const dtype = expertDtype === 'fp4' ? 'fp4' : 'f8e4m3'
    const wide = [expertWidth, hiddenSize] as const
    const gate = this.#stack(dtype, wide)
    const up = this.#stack(dtype, wide)
    const down = this.#stack(dtype, [hiddenSize, expertWidth])
    this.stacks = { gate, up, down }
    this.#pieces = piecesOf({ w1: gate, w3: up, w2: down }, slotCount)
    this.#expertBytes = [...this.#pieces.values()].reduce((sum, { bytes }) => sum + bytes, 0)
    this.#occupants = new Int32Array(slotCount).fill(-1)
    this.#neededAt = new Float64Array(slotCount)
    this.#spare = this.#hostPlace()
  }

  get counts(): ExpertCacheCounts {
    return { found: this.#found, brought: this.#brought, prefetched: this.#prefetched }
  }

  /** Experts in host memory. */
  get hostCount(): number {
    return this.#host.size
  }

  /** Whether the layer's experts are kept here; a draft block's are not. */
  holds(layer: string): boolean {
    return this.#layers.has(layer)
  }

  /** Takes a tensor of an expert as the checkpoint has it. Experts that come first get the slots. */
  place(layer: string, expert: number, piece: string, bytes: Uint8Array): void {
    const key = this.#key(layer, expert)
    const { stack, offset, bytes: size } = this.#piece(piece)
    assert.equal(bytes.byteLength, size, `${piece} of an expert fills its place`)
    const slot = this.#slots.get(key) ?? this.#emptySlot(key)
    if (slot !== null) {
      this.#device.write(stack.buffer, slot * size, bytes)
      return
    }
    let place = this.#host.get(key)
    if (place === undefined) this.#host.set(key, (place = this.#hostPlace()))
    place.set(bytes, offset)
  }

  /**
   * Sees to it that these experts of a layer are in slots, and gives each one's slot. At most
   * `slotCount` different ones.
   */
  bring(layer: string, experts: Int32Array): Int32Array {
    const wanted = [...new Set(experts)].map((expert) => this.#key(layer, expert))
    const before = this.#brought
    this.#ensure(wanted)
    this.#found += wanted.length - (this.#brought - before)
    return experts.map((expert) => this.#slots.get(this.#key(layer, expert)) ?? -1)
  }

  /** Brings what several layers are going to need, if there is room for all of it at once. */
  prefetch(needs: readonly { readonly layer: string; readonly experts: Int32Array }[]): void {
    const wanted = new Set(
      needs.flatMap(({ layer, experts }) => [...experts].map((expert) => this.#key(layer, expert))),
    )
    if (wanted.size > this.slotCount) return
    const before = this.#brought
    this.#ensure([...wanted])
    this.#prefetched += this.#brought - before
  }

  close(): void {
    for (const buffer of this.#buffers) this.#device.free(buffer)
    this.#host.clear()
  }

  #ensure(wanted: readonly number[]): void {
    assert(wanted.length <= this.slotCount, 'there are slots for all experts wanted at once')
    const now = ++this.#clock
    for (const key of wanted) {
      const slot = this.#slots.get(key)
      if (slot !== undefined) this.#neededAt[slot] = now
    }
    for (const key of wanted) {
      if (this.#slots.has(key)) continue
      const slot = this.#longestUnneeded(now)
      this.#exchange(slot, key)
      this.#neededAt[slot] = now
    }
  }

  #longestUnneeded(now: number): number {
    let oldest = -1
    for (let slot = 0; slot < this.slotCount; slot++) {
      const at = this.#neededAt[slot] ?? now
      if (at < now && (oldest < 0 || at < (this.#neededAt[oldest] ?? now))) oldest = slot
    }
    assert(oldest >= 0, 'some slot is not needed now')
    return oldest
  }

  /** The slot's expert goes to the host, and the one from the host into the slot. */
  #exchange(slot: number, key: number): void {
    const incoming = this.#host.get(key)
    assert(incoming !== undefined, 'an expert without a slot is on the host')
    const outgoing = this.#occupants[slot] ?? -1
    for (const { stack, bytes, offset } of this.#pieces.values()) {
      const part = this.#spare.subarray(offset, offset + bytes)
      this.#device.read(stack.buffer, slot * bytes, part)
    }
    for (const { stack, bytes, offset } of this.#pieces.values()) {
      this.#device.write(stack.buffer, slot * bytes, incoming.subarray(offset, offset + bytes))
    }
    this.#host.delete(key)
    this.#slots.delete(outgoing)
    this.#host.set(outgoing, this.#spare)
    this.#spare = incoming
    this.#slots.set(key, slot)
    this.#occupants[slot] = key
    this.#brought++
  }

  #emptySlot(key: number): number | null {
    if (this.#host.has(key)) return null
    const slot = this.#slots.size
    if (slot === this.slotCount) return null
    this.#slots.set(key, slot)
    this.#occupants[slot] = key
    return slot
  }

  #hostPlace(): Uint8Array {
    return this.#device.hostMemory?.(this.#expertBytes) ?? new Uint8Array(this.#expertBytes)
  }

  #key(layer: string, expert: number): number {
    const index = this.#layers.get(layer)
    assert(
      index !== undefined && expert >= 0 && expert < this.#expertCount,
      `${layer} has expert ${expert}`,
    )
    return index * this.#expertCount + expert
  }

  #piece(name: string): Piece {
    const piece = this.#pieces.get(name)
    assert(piece !== undefined, `an expert has a ${name}`)
    return piece
  }

  #stack(dtype: 'fp4' | 'f8e4m3', [rows, width]: readonly [number, number]): LinearWeight {
    const scales =
      dtype === 'fp4'
        ? [rows, width / fp4Run]
        : [Math.ceil(rows / fp8Tile), Math.ceil(width / fp8Tile)]
    return { weight: this.#alloc(dtype, [rows, width]), scale: this.#alloc('e8m0', scales) }
  }

  #alloc(dtype: DType, matrix: readonly number[]): Tensor {
    const shape = [this.slotCount, ...matrix]
    const buffer = this.#device.alloc(byteLength(dtype, shape), 'expert slots')
    this.#buffers.push(buffer)
    return { buffer, byteOffset: 0, dtype, shape }
  }
}

/** Codes and scales of each projection, one behind the other. */
function piecesOf(
  stacks: Readonly<Record<ExpertPart, LinearWeight>>,
  slotCount: number,
): ReadonlyMap<string, Piece> {
  const pieces = new Map<string, Piece>()
  let offset = 0
  for (const part of expertParts) {
    const { weight, scale } = stacks[part]
    for (const [kind, stack] of [
      ['weight', weight],
      ['scale', scale],
    ] as const) {
      if (stack === null) continue
      const bytes = byteLength(stack.dtype, stack.shape) / slotCount
      pieces.set(`${part}.${kind}`, { stack, bytes, offset })
      offset += bytes
    }
  }
  return pieces
}
