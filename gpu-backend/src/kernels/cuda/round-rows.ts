import type { DevicePointer, Launch, LaunchTarget, TileMatrix } from '../../device/cuda/launch.ts'
import type { OpName } from '../registry.ts'
import { ArgStruct, launch } from './args.ts'

/** Values that share a scale, a warp's work. */
export const unitColumns = 128
const rowsOfBlock = 8

/** Inputs of products rounded to FP8, as `round_rows` leaves them. */
interface RoundedRows {
  readonly launch: Launch
  readonly codes: TileMatrix
  /** f32 `[width ÷ 128, rows]`. */
  readonly scales: DevicePointer
}

/** What is to be rounded: `rows` of `width` f32, `stride` apart. */
export interface RowsToRound {
  /** Of the room for what comes of them. */
  readonly name: string
  readonly input: DevicePointer
  readonly rows: number
  readonly width: number
  readonly stride: number
  /** Rows come from row `order[row] ÷ share`, as many as `count` says; absent: all from their own. */
  readonly sorted?: {
    readonly order: DevicePointer
    readonly count: DevicePointer
    readonly share: number
  }
  /** Columns lie as FP4 weights meet them that come from registers. */
  readonly exchanged?: boolean
  /** Rows of the tiles their codes are brought in. */
  readonly tileRows: number
}

/** Codes and scales of rows, for products by `wgmma`. */
export function roundRows(op: OpName, target: LaunchTarget, what: RowsToRound): RoundedRows {
  const { name, input, rows, width, stride, sorted, exchanged = false, tileRows } = what
  const units = width / unitColumns
  const address = target.scratch(`${name} codes`, rows * width)
  const scales = target.scratch(`${name} scales`, 4 * units * rows)
  const struct = new ArgStruct(op, target)
    .pointer(input)
    .pointer(sorted?.order ?? 0n)
    .pointer(sorted?.count ?? 0n)
    .pointer(address)
    .pointer(scales)
    .i32(rows)
    .i32(width)
    .i32(rows)
    .i32(stride)
    .i32(sorted?.share ?? 1)
    .flag(exchanged)
  const grid = [units, Math.ceil(rows / rowsOfBlock)] as const
  const codes = { address, rows, columns: width, tileRows }
  return {
    launch: launch('round_rows', { grid, threads: 32 * rowsOfBlock }, struct),
    codes,
    scales,
  }
}
