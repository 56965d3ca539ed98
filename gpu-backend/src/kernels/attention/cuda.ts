import type { LaunchOp } from '../../device/cuda/launch.ts'
import { DeviceError } from '../../device/device.ts'
import { rowCount, type Tensor } from '../../device/tensor.ts'
import { ArgStruct, launch } from '../cuda/args.ts'
import type { AttentionArgs } from './attention.ts'

/** Of `keys.h`. */
const threads = 128
const partsMax = 16
const keysOfPart = 64

/** A kernel, by what the cache keeps. */
interface Shape {
  readonly kernel: string
  readonly headsOfBlock: number
  readonly sharedBytes: number
}

/** Up to here a row's parts are blocks of their own; more rows fill a GPU without. */
const fewRows = 32

export const launchAttention: LaunchOp<AttentionArgs> = (args, target) => {
  const [rows = 0, heads = 0, head = 0] = args.queries.shape
  if (head > 4 * threads) {
    const message = `attention does not take heads of ${head}; its blocks hold ${4 * threads}`
    throw new DeviceError('unsupported_op', 'cuda', message)
  }
  const { compressed } = args
  const rotated = 2 * rowCount(args.frequencies)
  const shape = args.window.dtype === 'u8' ? tilesShape(head) : plainShape(head)
  const groups = Math.ceil(heads / shape.headsOfBlock)
  const parts = rows > fewRows ? 1 : Math.min(partsMax, Math.ceil(keysMax(args) / keysOfPart))
  const partBytes = 4 * (Math.ceil(head / 4) * 4 + 4)
  const struct = new ArgStruct('attention', target)
    .activation(args.queries)
    .activation(args.keys)
    .ring(args.window)
    .entryPages(compressed?.entries ?? emptyEntries(args.window), args.pages)
    .tensor(compressed?.selected ?? null)
    .tensor(args.sink)
    .tensor(args.frequencies)
    .tensor(args.rows)
    .activation(args.output)
    .pointer(rows > fewRows ? 0n : target.scratch('parts', rows * heads * partsMax * partBytes))
    .pointer(target.counters(1 + rows * groups))
    .rowLayout(args.window, { plain: head - rotated, rotated, index: false })
    .i32(rows)
    .i32(heads)
    .i32(head)
    .i32(rotated / 2)
    .i32(args.windowSize)
    .i32(compressed?.ratio ?? 0)
    .i32(compressed?.selected?.shape[1] ?? 0)
    .f32(args.scale)
  const { kernel, sharedBytes } = shape
  return [launch(kernel, { grid: [parts, groups, rows], threads, sharedBytes }, struct)]
}

/** Eight heads and eight keys in fp32 (`attention.cu`). */
function plainShape(head: number): Shape {
  const [heads, keys] = [8, 8]
  const stride = Math.ceil(head / 8) * 8 + 8
  const small = 2 * heads * keys + 3 * heads + keys + 4
  const sharedBytes = 4 * ((heads + keys) * stride + small)
  return { kernel: 'attention_rows', headsOfBlock: heads, sharedBytes }
}

/** Sixteen of both on the tensor cores (`tiles.h`). */
function tilesShape(head: number): Shape {
  const [heads, keys, warps] = [16, 16, 4]
  const stride = Math.ceil(head / 16) * 16 + 8
  const weights = 2 * heads * (keys + 8)
  const small = 4 * (3 * heads + keys + 4)
  const sharedBytes = 2 * keys * stride + 4 * warps * heads * keys + weights + small
  return { kernel: 'attention_tiles', headsOfBlock: heads, sharedBytes }
}

/** Keys a row can have at most, so that the grid depends on nothing else. */
function keysMax({ windowSize, compressed, pages }: AttentionArgs): number {
  if (compressed === null) return windowSize
  const { selected, entries } = compressed
  const entriesMax = selected?.shape[1] ?? (pages.shape[1] ?? 0) * (entries.shape[1] ?? 0)
  return windowSize + entriesMax
}

/** Stands where a layer has no entries; nothing reads it. */
function emptyEntries(window: Tensor): Tensor {
  return { ...window, shape: [1, 1, window.shape[2] ?? 0] }
}
