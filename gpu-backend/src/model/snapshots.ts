import { strict as assert } from 'node:assert'
import type { Device } from '../device/device.ts'
import { sliceRows, stackItem, type Tensor } from '../device/tensor.ts'
import { pageTokens } from '../kernels/batch.ts'
import { copy } from '../kernels/copy/copy.ts'
import { Pool, type PooledKind, type PooledTensor } from './pool.ts'

/** A ring of the slots, and where its rows lie in a snapshot: in ascending position. */
interface KeptRing {
  readonly ring: PooledTensor
  readonly kept: PooledTensor
  readonly rows: number
}

/** A sequence's slot at a length that its rings still reach. */
export interface SlotState {
  readonly slot: number
  readonly length: number
}

const firstPlaces = 4

/**
 * Copies of what rings hold just behind a length, by which a sequence can be taken up there again.
 * Rows lie in ascending position, not where the ring of their slot had them: a snapshot does not
 * depend on the head-room of rings.
 */
export class Snapshots {
  readonly #device: Device
  readonly #places: Pool
  readonly #members: KeptRing[] = []

  constructor(device: Device, max: number) {
    this.#device = device
    this.#places = new Pool(device, { first: firstPlaces, max })
  }

  get left(): number {
    return this.#places.left
  }

  get max(): number {
    return this.#places.max
  }

  get allocatedBytes(): number {
    return this.#places.allocatedBytes
  }

  /** Has snapshots keep the last `rows` rows of a ring `[slots, ring, …]`. */
  keep(ring: PooledTensor, rows: number): void {
    const { label, dtype, item } = ring.kind
    const [ringRows = 0, ...row] = item
    assert(rows > 0 && rows <= ringRows, `${label} has the ${rows} rows a snapshot keeps`)
    assert(rows <= pageTokens, `${rows} rows of ${label} lie in front of the shortest prefix's end`)
    const kept = this.#places.add({ label: `${label} snapshot`, dtype, item: [rows, ...row] })
    this.#members.push({ ring, kept, rows })
  }

  reserve(): void {
    this.#places.reserve()
  }

  take(): number {
    return this.#places.take()
  }

  give(place: number): void {
    this.#places.give(place)
  }

  /** Copies the rows before `length` out of the slot. */
  save(place: number, from: SlotState): void {
    this.#eachRun(place, from, (ring, kept) => copy(this.#device, { from: ring, to: kept }))
  }

  /** Copies them into a slot, which then holds at `length` what the first one held. */
  restore(place: number, to: SlotState): void {
    this.#eachRun(place, to, (ring, kept) => copy(this.#device, { from: kept, to: ring }))
  }

  get bytesEach(): number {
    return this.#places.itemBytes
  }

  get kinds(): readonly PooledKind[] {
    return this.#places.kinds
  }

  /** What a place holds, one tensor a ring. */
  tensorsOf(place: number): readonly Tensor[] {
    return this.#places.tensorsOf(place)
  }

  close(): void {
    this.#places.close()
  }

  /** Rows that are neighbours in the ring and in the snapshot: all of them, or two runs. */
  #eachRun(
    place: number,
    { slot, length }: SlotState,
    visit: (ring: Tensor, kept: Tensor) => void,
  ): void {
    for (const { ring, kept, rows } of this.#members) {
      const inSlot = stackItem(ring.tensor, slot)
      const inPlace = stackItem(kept.tensor, place)
      const ringRows = inSlot.shape[0] ?? 0
      for (let done = 0; done < rows;) {
        const at = (length - rows + done) % ringRows
        const count = Math.min(rows - done, ringRows - at)
        visit(sliceRows(inSlot, at, count), sliceRows(inPlace, done, count))
        done += count
      }
    }
  }
}
