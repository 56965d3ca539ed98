import type { Launch, LaunchOp, LaunchTarget } from '../../device/cuda/launch.ts'
import { DeviceError } from '../../device/device.ts'
import { rowCount, sliceRows, type Tensor } from '../../device/tensor.ts'
import { ArgStruct, launch } from '../cuda/args.ts'
import { fewSharedBytes, manySharedBytes, warpOutputs, warpsOfBlock } from '../cuda/matrix.ts'
import type { ExpertsArgs, ExpertWeights } from './experts.ts'

/** Up to here a place looks for its expert's other places itself; beyond, places are sorted first. */
const fewRows = 32
/** Rows taken at once, which bounds the room that results of all their experts need. */
const rowsMax = 2048
const tokensOfTile = 8
/** Of `experts.cu`. */
const manyTiles = 4

interface Sizes {
  readonly rows: number
  readonly places: number
  readonly hidden: number
  readonly width: number
  readonly experts: number
}

export const launchExperts: LaunchOp<ExpertsArgs> = (args, target) => {
  for (const { weight } of [args.routed.gate, args.shared.gate]) {
    if (weight.dtype !== 'f32') continue
    throw new DeviceError('unsupported_op', 'cuda', 'experts does not take weights of f32')
  }
  const rows = rowCount(args.input)
  const launches: Launch[] = []
  for (let at = 0; at < rows; at += rowsMax) {
    const count = Math.min(rowsMax, rows - at)
    const cut = (tensor: Tensor): Tensor => sliceRows(tensor, at, count)
    const part = {
      ...args,
      input: cut(args.input),
      experts: cut(args.experts),
      weights: cut(args.weights),
      output: cut(args.output),
    }
    launches.push(...(count > fewRows ? launchMany(part, target) : launchFew(part, target)))
  }
  return launches
}

function launchFew(args: ExpertsArgs, target: LaunchTarget): readonly Launch[] {
  const { rows, places, hidden, width } = sizesOf(args)
  const struct = structOf(args, target)
  const blocks = places + Math.ceil(rows / tokensOfTile)
  // The list of places lies before the tile, up to 16 bytes.
  const sharedBytes = 16 * Math.floor((4 + places + tokensOfTile) / 4) + fewSharedBytes(1)
  const shape = (outputs: number) => ({
    grid: [Math.ceil(outputs / warpOutputs), blocks] as const,
    threads: 256,
    sharedBytes,
  })
  return [launch('experts_up', shape(width), struct), launch('experts_down', shape(hidden), struct)]
}

function launchMany(args: ExpertsArgs, target: LaunchTarget): readonly Launch[] {
  const { rows, places, hidden, width, experts } = sizesOf(args)
  const struct = structOf(args, target)
  const tokens = tokensOfTile * manyTiles
  // Every expert may have a tile that is not full.
  const routedTiles = Math.min(places, Math.floor(places / tokens) + experts)
  const tiles = Math.ceil(rows / tokens) + routedTiles
  const outputsOfBlock = warpOutputs * warpsOfBlock
  const sharedBytes = 4 * tokens + manySharedBytes(manyTiles)
  const shape = (outputs: number) => ({
    grid: [Math.ceil(outputs / outputsOfBlock), tiles] as const,
    threads: 256,
    sharedBytes,
  })
  const sum = { grid: [rows, Math.ceil(hidden / 256)] as const, threads: 256 }
  return [
    launch('experts_sort', { grid: [1], threads: 256, sharedBytes: 4 * experts }, struct),
    launch('experts_up_many', shape(width), struct),
    launch('experts_down_many', shape(hidden), struct),
    launch('experts_sum', sum, struct),
  ]
}

function sizesOf({ input, experts, routed, shared }: ExpertsArgs): Sizes {
  const [rows = 0, hidden = 0] = input.shape
  const [count = 0, width = 0] = routed.gate.weight.shape
  const places = rows * (experts.shape[1] ?? 0)
  return {
    rows,
    places,
    hidden,
    width: Math.max(width, rowCount(shared.gate.weight)),
    experts: count,
  }
}

function structOf(args: ExpertsArgs, target: LaunchTarget): ArgStruct {
  const { rows, places, hidden, width, experts } = sizesOf(args)
  const results = places + rows
  const struct = new ArgStruct('experts', target)
    .activation(args.input)
    .tensor(args.experts)
    .tensor(args.weights)
  projections(struct, args.routed)
  projections(struct, args.shared)
  return struct
    .activation(args.output)
    .pointer(target.scratch('inner', 4 * results * width))
    .pointer(target.scratch('results', 4 * results * hidden))
    .pointer(target.counters(Math.ceil(hidden / warpOutputs)))
    .pointer(target.scratch('sorted', 4 * places))
    .pointer(target.scratch('first place', 4 * (experts + 1)))
    .pointer(target.scratch('first tile', 4 * (experts + 1)))
    .i32(rows)
    .i32(args.experts.shape[1] ?? 0)
    .i32(experts)
    .i32(hidden)
    .i32(width)
    .flag(args.quantise)
    .f32(args.limit)
    .i32(0)
}

function projections(struct: ArgStruct, { gate, up, down }: ExpertWeights): void {
  struct.matrix(gate).matrix(up).matrix(down)
}
