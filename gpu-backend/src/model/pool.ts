import { strict as assert } from 'node:assert'
import type { Device } from '../device/device.ts'
import {
  byteLength,
  type DType,
  sliceRows,
  stackItem,
  type Tensor,
  tensorBytes,
} from '../device/tensor.ts'
import { copy } from '../kernels/copy/copy.ts'

/** What one member of a pool is made of. */
export interface PooledKind {
  readonly label: string
  readonly dtype: DType
  /** Shape of one item; the pooled tensor has one extent more in front. */
  readonly item: readonly number[]
}

/** A tensor with one item per slot or page. Its place changes when the pool grows: ask each step. */
export class PooledTensor {
  readonly kind: PooledKind
  #tensor: Tensor | null = null

  constructor(kind: PooledKind) {
    this.kind = kind
  }

  get tensor(): Tensor {
    assert(this.#tensor !== null, `${this.kind.label} has room before it is used`)
    return this.#tensor
  }

  get allocatedBytes(): number {
    return this.#tensor === null ? 0 : tensorBytes(this.#tensor)
  }

  /** Moves to a buffer for `capacity` items, the items so far with it. */
  resize(device: Device, capacity: number): void {
    const { label, dtype, item } = this.kind
    const shape = [capacity, ...item]
    const buffer = device.alloc(byteLength(dtype, shape), label)
    const grown: Tensor = { buffer, byteOffset: 0, dtype, shape }
    const old = this.#tensor
    this.#tensor = grown
    if (old === null) return
    copy(device, { from: old, to: sliceRows(grown, 0, old.shape[0] ?? 0) })
    device.free(old.buffer)
  }

  free(device: Device): void {
    if (this.#tensor !== null) device.free(this.#tensor.buffer)
    this.#tensor = null
  }
}

/**
 * Numbered items across several tensors: item n is row n of each. Grows by doubling up to `max`,
 * so that a fresh model takes little and a full one was copied a few times. An item has one user
 * when it is taken, may be shared with more, and is free again when the last gives it back.
 */
export class Pool {
  readonly max: number
  readonly #device: Device
  readonly #members: PooledTensor[] = []
  readonly #free: number[] = []
  /** By item; 0 for one that is free. */
  readonly #users: number[] = []
  readonly #first: number
  #capacity = 0

  constructor(device: Device, sizes: { readonly first: number; readonly max: number }) {
    this.#device = device
    this.#first = Math.min(sizes.first, sizes.max)
    this.max = sizes.max
  }

  get capacity(): number {
    return this.#capacity
  }

  /** Items in use, each counted once however many share it. */
  get used(): number {
    return this.#capacity - this.#free.length
  }

  /** Items that can still be taken. */
  get left(): number {
    return this.max - this.used
  }

  get allocatedBytes(): number {
    return this.#members.reduce((sum, member) => sum + member.allocatedBytes, 0)
  }

  /** Bytes of one item. */
  get itemBytes(): number {
    return this.kinds.reduce((sum, { dtype, item }) => sum + byteLength(dtype, item), 0)
  }

  get kinds(): readonly PooledKind[] {
    return this.#members.map(({ kind }) => kind)
  }

  /** What an item is made of, a tensor a member. */
  tensorsOf(item: number): readonly Tensor[] {
    return this.#members.map(({ tensor }) => stackItem(tensor, item))
  }

  /** Adds a tensor; all are added before the first item is taken. */
  add(kind: PooledKind): PooledTensor {
    assert(this.#capacity === 0, 'a pool has all its members before it grows')
    const member = new PooledTensor(kind)
    this.#members.push(member)
    return member
  }

  /** Has all its memory at once: growing later takes half as much again while items move. */
  reserve(): void {
    if (this.#capacity < this.max) this.#growTo(this.max)
  }

  /** Has its tensors, if not yet any item in use: a step without rows of its own names them too. */
  start(): void {
    if (this.#capacity === 0 && this.max > 0) this.#grow()
  }

  /** An item nobody uses; the caller sees to it that one is left. */
  take(): number {
    if (this.#free.length === 0) this.#grow()
    const item = this.#free.pop()
    assert(item !== undefined, 'a grown pool has a free item')
    this.#users[item] = 1
    return item
  }

  /** One user more for an item in use; each gives it back. */
  share(item: number): void {
    this.#users[item] = this.#usersOf(item) + 1
  }

  give(item: number): void {
    const users = this.#usersOf(item) - 1
    this.#users[item] = users
    if (users === 0) this.#free.push(item)
  }

  close(): void {
    for (const member of this.#members) member.free(this.#device)
  }

  #usersOf(item: number): number {
    const users = this.#users[item] ?? 0
    assert(users > 0, `item ${item} is in use`)
    return users
  }

  #grow(): void {
    const capacity = Math.min(this.max, Math.max(this.#first, 2 * this.#capacity))
    assert(capacity > this.#capacity, `a pool of ${this.max} is not overdrawn`)
    this.#growTo(capacity)
  }

  #growTo(capacity: number): void {
    for (const member of this.#members) member.resize(this.#device, capacity)
    // Lowest numbers are taken first.
    for (let item = capacity - 1; item >= this.#capacity; item--) this.#free.push(item)
    this.#capacity = capacity
  }
}
