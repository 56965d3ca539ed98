import type { Launch, LaunchOp, LaunchTarget } from '../../device/cuda/launch.ts'
import { sliceRows, type Tensor } from '../../device/tensor.ts'
import { ArgStruct, launch } from '../cuda/args.ts'
import type { IndexSelectArgs } from './index-select.ts'

/** Of `index-select.cu`. */
const entriesOfTile = 64
const headsOfChunk = 16
const threads = 256
const digits = 256
const headsMax = 64

/** Scores kept at once; more rows than have room for theirs follow in a launch of their own. */
const scoreBytesMax = 64 * 2 ** 20

export const launchIndexSelect: LaunchOp<IndexSelectArgs> = (args, target) => {
  const [rows = 0] = args.queries.shape
  if ((args.selected.shape[1] ?? 0) === 0) return []
  const capacity = capacityOf(args)
  const rowsMax = Math.max(1, Math.floor(scoreBytesMax / (4 * capacity)))
  const launches: Launch[] = []
  for (let at = 0; at < rows; at += rowsMax) {
    launches.push(launchRows(args, { at, count: Math.min(rowsMax, rows - at) }, target))
  }
  return launches
}

/** Entries a sequence can have at most, so that the grid depends on nothing else. */
function capacityOf({ pages, entries }: IndexSelectArgs): number {
  return Math.max(1, (pages.shape[1] ?? 0) * (entries.shape[1] ?? 0))
}

function launchRows(
  args: IndexSelectArgs,
  { at, count }: { readonly at: number; readonly count: number },
  target: LaunchTarget,
): Launch {
  const [, heads = 0, head = 0] = args.queries.shape
  const capacity = capacityOf(args)
  const cut = (tensor: Tensor): Tensor => sliceRows(tensor, at, count)
  const struct = new ArgStruct('index-select', target)
    .activation(cut(args.queries))
    .tensor(cut(args.weights))
    .entryPages(args.entries, args.pages)
    .tensor(cut(args.rows))
    .tensor(cut(args.selected))
    .pointer(target.scratch('scores', 4 * count * capacity))
    .pointer(target.counters(count))
    .rowLayout(args.entries, { plain: head, rotated: 0, index: true })
    .i32(heads)
    .i32(head)
    .i32(args.ratio)
    .i32(args.selected.shape[1] ?? 0)
    .i32(capacity)
    .f32(args.scale)
  const tiles = Math.ceil(capacity / entriesOfTile)
  const blocks = Math.min(tiles, Math.ceil((4 * target.gpu.multiprocessors) / count))
  const wide = args.entries.dtype === 'u8' && heads <= headsMax && head % 16 === 0
  const sharedBytes = wide
    ? 4 * digits + 2 * (headsMax + entriesOfTile) * (head + 8)
    : 4 * (digits + threads + headsOfChunk * head + entriesOfTile * (head + 1))
  const kernel = wide ? 'index_select_tiles' : 'index_select'
  return launch(kernel, { grid: [blocks, count], threads, sharedBytes }, struct)
}
