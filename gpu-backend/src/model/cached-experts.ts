import type { Device } from '../device/device.ts'
import { sliceRows, type Tensor, tensorBytes } from '../device/tensor.ts'
import { experts, type ExpertsArgs } from '../kernels/experts/experts.ts'
import type { ExpertCache } from './expert-cache.ts'
import type { ModelWeights } from './weights.ts'

/** A layer's experts op whose experts lie in a cache. */
export interface CachedLayer {
  readonly device: Device
  readonly layer: string
  readonly args: ExpertsArgs
}

/**
 * Waits for the router's picks, brings what they need, and runs the op on slots in place of experts: a
 * few rows at a time where all rows need more experts than there are slots.
 */
export function runCachedExperts(cache: ExpertCache, { device, layer, args }: CachedLayer): void {
  const picks = readI32(device, args.experts)
  const [rows = 0, width = 1] = args.experts.shape
  for (let first = 0; first < rows;) {
    const count = rowsThatFit(picks.subarray(first * width), width, cache.slotCount)
    const part = picks.subarray(first * width, (first + count) * width)
    const slots = cache.bring(layer, part)
    const slice = (tensor: Tensor): Tensor => sliceRows(tensor, first, count)
    const target = slice(args.experts)
    device.write(target.buffer, target.byteOffset, new Uint8Array(slots.buffer))
    experts(device, {
      ...args,
      input: slice(args.input),
      experts: target,
      weights: slice(args.weights),
      output: slice(args.output),
    })
    first += count
  }
}

/** How many rows from the first on need no more than `most` different experts. */
function rowsThatFit(picks: Int32Array, width: number, most: number): number {
  const needed = new Set<number>()
  const rows = picks.length / width
  for (let row = 0; row < rows; row++) {
    for (const pick of picks.subarray(row * width, (row + 1) * width)) needed.add(pick)
    if (needed.size > most) return row
  }
  return rows
}

/** Layers whose experts a token's id decides, with their tables. */
export interface HashRoute {
  readonly layer: string
  /** `[vocabulary, experts a token]`, row by row. */
  readonly table: Int32Array
  readonly width: number
}

/** Reads the tables back once, so that the host knows what a token will need. */
export function hashRoutes(device: Device, weights: ModelWeights): readonly HashRoute[] {
  return weights.layers.flatMap(({ shape, moe: { choice } }) => {
    if (choice.by !== 'token') return []
    const [, width = 1] = choice.table.shape
    return [{ layer: shape.name, table: readI32(device, choice.table), width }]
  })
}

/** Brings what a step's tokens need in the layers that route by id, before the step begins. */
export function prefetchExperts(
  cache: ExpertCache,
  routes: readonly HashRoute[],
  tokens: readonly Int32Array[],
): void {
  cache.prefetch(
    routes.map(({ layer, table, width }) => {
      const rows = tokens.flatMap((part) => [...part])
      const experts = rows.flatMap((token) => [
        ...table.subarray(token * width, (token + 1) * width),
      ])
      return { layer, experts: Int32Array.from(experts) }
    }),
  )
}

function readI32(device: Device, tensor: Tensor): Int32Array {
  const values = new Int32Array(tensorBytes(tensor) / Int32Array.BYTES_PER_ELEMENT)
  device.read(tensor.buffer, tensor.byteOffset, new Uint8Array(values.buffer))
  return values
}
