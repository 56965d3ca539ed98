import { strict as assert } from 'node:assert'
import { type DeviceBuffer, type LinearWeight, type Tensor, tensorBytes } from './tensor.ts'

/** Weight rows that lie side by side in a panel (`kernels/native/matmul/panels.h`). */
const panelRows = 16
/** Columns of a panel come in groups of four; FP4 in runs that share a scale. */
const columnGroup = 4
const fp4Run = 32

interface Region {
  readonly from: number
  readonly to: number
}

/** Which weights of a device lie in panels: the layout belongs to the bytes, whoever names them. */
export class PackedWeights {
  readonly #regions = new Map<DeviceBuffer, Region[]>()

  /** Stacks need whole panels an element; single matrices may have rows left over. */
  canHold({ weight }: LinearWeight): boolean {
    const [rows = 0, width = 0] = weight.shape.slice(-2)
    const group = weight.dtype === 'fp4' ? fp4Run : columnGroup
    return width % group === 0 && (weight.shape.length === 2 || rows % panelRows === 0)
  }

  add({ weight, scale }: LinearWeight): void {
    this.#mark(weight)
    // Only FP4 scales are rearranged; those of FP8 stay as they were.
    if (weight.dtype === 'fp4' && scale !== null) this.#mark(scale)
  }

  /** Whether the weight lies in panels. A part of a packed weight that is not its beginning is a bug. */
  has({ weight }: LinearWeight): boolean {
    const from = weight.byteOffset
    const region = this.#find(weight.buffer, from, from + tensorBytes(weight))
    if (region === undefined) return false
    assert(
      region.from === from && region.to === from + tensorBytes(weight),
      'a weight is used as it was prepared, not in part',
    )
    return true
  }

  overlaps(buffer: DeviceBuffer, offset: number, bytes: number): boolean {
    return this.#find(buffer, offset, offset + bytes) !== undefined
  }

  forget(buffer: DeviceBuffer): void {
    this.#regions.delete(buffer)
  }

  #mark(tensor: Tensor): void {
    const regions = this.#regions.get(tensor.buffer) ?? []
    regions.push({ from: tensor.byteOffset, to: tensor.byteOffset + tensorBytes(tensor) })
    regions.sort((a, b) => a.from - b.from)
    this.#regions.set(tensor.buffer, regions)
  }

  /** The first region sharing bytes with `from … to − 1`; regions are disjoint and sorted. */
  #find(buffer: DeviceBuffer, from: number, to: number): Region | undefined {
    const regions = this.#regions.get(buffer)
    if (regions === undefined) return undefined
    let low = 0
    let high = regions.length
    while (low < high) {
      const middle = (low + high) >> 1
      if ((regions[middle]?.to ?? 0) <= from) low = middle + 1
      else high = middle
    }
    const region = regions[low]
    return region !== undefined && region.from < to ? region : undefined
  }
}
