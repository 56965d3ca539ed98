import type { Launch, LaunchOp, LaunchTarget } from '../../device/cuda/launch.ts'
import { DeviceError } from '../../device/device.ts'
import { type LinearWeight, rowCount, sliceRows, type Tensor } from '../../device/tensor.ts'
import { ArgStruct, launch } from '../cuda/args.ts'
import {
  fewSharedBytes,
  manyRows,
  manySharedBytes,
  warpOutputs,
  warpsOfBlock,
} from '../cuda/matrix.ts'
import { roundRows, type RowsToRound, unitColumns } from '../cuda/round-rows.ts'
import { ringThreads, tileRingBytes } from '../cuda/tile-ring.ts'
import type { ExpertsArgs, ExpertWeights } from './experts.ts'

/** Up to here a place looks for its expert's other places itself; beyond, places are sorted first. */
const fewRows = 32
/** Rows taken at once, which bounds the room that results of all their experts need. */
const rowsMax = 2048
const tokensOfTile = 8
/** Of `experts.cu`. */
const manyTiles = 4
/** Outputs and places of a block of `experts-wgmma.cu`, and how many units of them are on their way. */
const wgmmaOutputs = 128
const wgmmaPlaces = 48
const wgmmaStages = 6

interface Sizes {
  readonly rows: number
  /** Rows of the shared expert, and the first of them. */
  readonly sharedRows: number
  readonly sharedFirst: number
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
    const some = rowsOf(args, at, count)
    launches.push(...(count > fewRows ? launchMany(some, target) : launchFew(some, target)))
  }
  return launches
}

/** The op on some of its rows. */
function rowsOf(args: ExpertsArgs, at: number, count: number): ExpertsArgs {
  const cut = (tensor: Tensor): Tensor => sliceRows(tensor, at, count)
  const [input, experts, weights] = [cut(args.input), cut(args.experts), cut(args.weights)]
  const rows = { ...args, input, experts, weights }
  const { part, output } = args
  if (part === undefined) return { ...rows, output: cut(output) }
  const own = { from: part.firstRow, to: part.firstRow + rowCount(output) }
  const from = Math.min(Math.max(own.from, at), own.to)
  const to = Math.max(from, Math.min(own.to, at + count))
  return {
    ...rows,
    output: sliceRows(output, from - own.from, to - from),
    part: { ...part, firstRow: Math.max(0, from - at), results: cut(part.results) },
  }
}

function launchFew(args: ExpertsArgs, target: LaunchTarget): readonly Launch[] {
  const { sharedRows, places, hidden, width } = sizesOf(args)
  const struct = structOf(args, target)
  const blocks = places + Math.ceil(sharedRows / tokensOfTile)
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
  const { rows, sharedRows, places, hidden, width, experts } = sizesOf(args)
  const struct = structOf(args, target)
  const tokens = tokensOfTile * manyTiles
  const wgmma = takesWgmma(args, target)
  // Every expert may have a tile that is not full.
  const routedTiles = wgmma ? 0 : Math.min(places, Math.floor(places / tokens) + experts)
  const tiles = Math.ceil(sharedRows / tokens) + routedTiles
  const outputsOfBlock = warpOutputs * warpsOfBlock
  const sharedBytes = 4 * tokens + manySharedBytes(manyTiles)
  const shape = (outputs: number) => ({
    grid: [Math.ceil(outputs / outputsOfBlock), tiles] as const,
    threads: 256,
    sharedBytes,
  })
  const sum = { grid: [rows, Math.ceil(hidden / 256)] as const, threads: 256 }
  // Tiles of the shared expert come first; where there are no others they are all that is left to do.
  const many = (kernel: string, outputs: number): readonly Launch[] =>
    tiles === 0 ? [] : [launch(kernel, shape(outputs), struct)]
  const products = [
    launch('experts_sort', { grid: [1], threads: 256, sharedBytes: 4 * experts }, struct),
    ...many('experts_up_many', width),
    ...(wgmma ? upByWgmma(args, target) : []),
    ...many('experts_down_many', hidden),
    ...(wgmma ? downByWgmma(args, target) : []),
  ]
  return args.part === undefined ? [...products, launch('experts_sum', sum, struct)] : products
}

/** FP4 of the routed experts meets FP8 codes where there are many rows, on GPUs told to do it so. */
function takesWgmma({ input, routed, quantise }: ExpertsArgs, target: LaunchTarget): boolean {
  const asked = target.products === 'wgmma' && quantise && routed.gate.weight.dtype === 'fp4'
  return asked && rowCount(input) >= manyRows && target.address(input) % 16n === 0n
}

function upByWgmma(args: ExpertsArgs, target: LaunchTarget): readonly Launch[] {
  const { hidden } = sizesOf(args)
  const what = { name: 'up', input: target.address(args.input), width: hidden, stride: hidden }
  const picked = args.experts.shape[1] ?? 0
  return byWgmma('experts_up_wgmma', args, target, { ...what, share: picked }, args.routed.gate)
}

function downByWgmma(args: ExpertsArgs, target: LaunchTarget): readonly Launch[] {
  const { width: stride } = sizesOf(args)
  const width = args.routed.down.weight.shape.at(-1) ?? 0
  const what = { name: 'down', input: innerOf(args, target), width, stride }
  return byWgmma('experts_down_wgmma', args, target, { ...what, share: 1 }, args.routed.down)
}

/** What meets the weights is rounded, by places as they are sorted; then every expert has its blocks. */
function byWgmma(
  kernel: string,
  args: ExpertsArgs,
  target: LaunchTarget,
  what: Pick<RowsToRound, 'name' | 'input' | 'width' | 'stride'> & { readonly share: number },
  { weight }: LinearWeight,
): readonly Launch[] {
  const { places, experts } = sizesOf(args)
  const { order, firstPlace } = sortedOf(args, target)
  const count = firstPlace + BigInt(4 * experts)
  const rounded = roundRows('experts', target, {
    ...what,
    rows: places,
    sorted: { order, count, share: what.share },
    exchanged: true,
    tileRows: wgmmaPlaces,
  })
  const struct = new ArgStruct('experts', target).tileMap(rounded.codes).pointer(rounded.scales)
  const grid = [Math.ceil((weight.shape.at(-2) ?? 0) / wgmmaOutputs), experts] as const
  const sharedBytes = tileRingBytes(wgmmaStages, wgmmaPlaces * unitColumns)
  const shape = { grid, threads: ringThreads, sharedBytes }
  return [rounded.launch, launch(kernel, shape, structOf(args, target, struct))]
}

/** t of every place and of every row's shared expert. */
function innerOf(args: ExpertsArgs, target: LaunchTarget): bigint {
  const { places, sharedRows, width } = sizesOf(args)
  return target.scratch('inner', 4 * (places + sharedRows) * width)
}

/** Where `experts_sort` leaves places by expert, and the first of each. */
function sortedOf(
  args: ExpertsArgs,
  target: LaunchTarget,
): { readonly order: bigint; readonly firstPlace: bigint } {
  const { places, experts } = sizesOf(args)
  const order = target.scratch('sorted', 4 * places)
  return { order, firstPlace: target.scratch('first place', 4 * (experts + 1)) }
}

function sizesOf({ input, experts, routed, shared, output, part }: ExpertsArgs): Sizes {
  const [rows = 0, hidden = 0] = input.shape
  const [count = 0, width = 0] = routed.gate.weight.shape
  const places = rows * (experts.shape[1] ?? 0)
  return {
    rows,
    sharedRows: rowCount(output),
    sharedFirst: part?.firstRow ?? 0,
    places,
    hidden,
    width: Math.max(width, rowCount(shared.gate.weight)),
    experts: count,
  }
}

function structOf(
  args: ExpertsArgs,
  target: LaunchTarget,
  struct = new ArgStruct('experts', target),
): ArgStruct {
  const { rows, sharedRows, sharedFirst, places, hidden, width, experts } = sizesOf(args)
  const { part } = args
  const { order, firstPlace } = sortedOf(args, target)
  struct.activation(args.input).tensor(args.experts).tensor(args.weights)
  projections(struct, args.routed)
  projections(struct, args.shared)
  struct.activation(args.output).pointer(innerOf(args, target))
  if (part === undefined) {
    const results = target.scratch('results', 4 * (places + sharedRows) * hidden)
    struct.pointer(results).pointer(results + BigInt(4 * places * hidden))
  } else struct.tensor(part.results).activation(args.output)
  return struct
    .pointer(target.counters(Math.ceil(hidden / warpOutputs)))
    .pointer(order)
    .pointer(firstPlace)
    .pointer(target.scratch('first tile', 4 * (experts + 1)))
    .i32(rows)
    .i32(args.experts.shape[1] ?? 0)
    .i32(experts)
    .i32(hidden)
    .i32(width)
    .flag(args.quantise)
    .f32(args.limit)
    .i32(part?.firstExpert ?? 0)
    .i32(sharedFirst)
    .i32(sharedRows)
    .flag(part === undefined)
    .i32(0)
}

function projections(struct: ArgStruct, { gate, up, down }: ExpertWeights): void {
  struct.matrix(gate).matrix(up).matrix(down)
}
