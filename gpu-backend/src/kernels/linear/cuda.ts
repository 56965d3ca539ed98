import type { Launch, LaunchOp, LaunchTarget } from '../../device/cuda/launch.ts'
import { rowCount, type Tensor } from '../../device/tensor.ts'
import { ArgStruct, launch } from '../cuda/args.ts'
import { manyRows, productShape } from '../cuda/matrix.ts'
import { roundRows, unitColumns } from '../cuda/round-rows.ts'
import { ringThreads, tileRingBytes } from '../cuda/tile-ring.ts'
import type { LinearArgs, LinearPart } from './linear.ts'

/** Parts of one launch (`partsMax` of `linear.cu`), and what each takes of its arguments. */
const partsMax = 8
const partBytes = 48
/** Rows and outputs of a block of `linear-wgmma.cu`, and how many units of them are on their way. */
const wgmmaTile = 128
const wgmmaStages = 4

export const launchLinear: LaunchOp<LinearArgs> = (args, target) => {
  const parts = args.parts.filter(({ weight }) => rowCount(weight.weight) > 0)
  const taken = parts.filter((part) => takesWgmma(args, part, target))
  const others = parts.filter((part) => !taken.includes(part))
  const launches = taken.length === 0 ? [] : [...launchWgmma(args, taken, target)]
  for (let at = 0; at < others.length; at += partsMax) {
    launches.push(launchParts(args, others.slice(at, at + partsMax), target))
  }
  return launches
}

/** FP8 codes meet FP8 codes where there are many rows, on GPUs told to do it so. */
function takesWgmma(
  { input, quantise }: LinearArgs,
  { weight: { weight } }: LinearPart,
  target: LaunchTarget,
): boolean {
  const [rows = 0, width = 0] = input.shape
  const asked = target.products === 'wgmma' && quantise && weight.dtype === 'f8e4m3'
  const whole = rows >= manyRows && width % unitColumns === 0
  const aligned = (tensor: Tensor): boolean => target.address(tensor) % 16n === 0n
  return asked && whole && aligned(input) && aligned(weight)
}

/** The input is rounded once; then a launch each. */
function* launchWgmma(
  { input }: LinearArgs,
  parts: readonly LinearPart[],
  target: LaunchTarget,
): Iterable<Launch> {
  const [rows = 0, width = 0] = input.shape
  const rounded = roundRows('linear', target, {
    name: 'rounded',
    input: target.address(input),
    rows,
    width,
    stride: width,
    tileRows: wgmmaTile,
  })
  yield rounded.launch
  for (const { weight, output } of parts) {
    const outputs = rowCount(weight.weight)
    const address = target.address(weight.weight)
    const codes = { address, rows: outputs, columns: width, tileRows: wgmmaTile }
    const struct = new ArgStruct('linear', target)
      .tileMap(rounded.codes)
      .tileMap(codes)
      .pointer(rounded.scales)
      .tensor(weight.scale)
      .activation(output)
      .i32(rows)
      .i32(outputs)
      .i32(width / unitColumns)
      .i32(rows)
    const grid = [Math.ceil(outputs / wgmmaTile), Math.ceil(rows / wgmmaTile)] as const
    const sharedBytes = tileRingBytes(wgmmaStages, 2 * wgmmaTile * unitColumns)
    yield launch('linear_wgmma', { grid, threads: ringThreads, sharedBytes }, struct)
  }
}

function launchParts(
  { input, quantise }: LinearArgs,
  parts: readonly LinearPart[],
  target: LaunchTarget,
): Launch {
  const rows = rowCount(input)
  const shape = productShape(rows)
  const struct = new ArgStruct('linear', target).activation(input)
  struct
    .i32(rows)
    .i32(input.shape[1] ?? 0)
    .flag(quantise)
    .i32(parts.length)
  let blocks = 0
  for (const { weight, output } of parts) {
    struct.matrix(weight).activation(output).i32(blocks).i32(0)
    blocks += Math.ceil(rowCount(weight.weight) / shape.outputs)
  }
  struct.skip((partsMax - parts.length) * partBytes)
  const grid = [blocks, Math.ceil(rows / shape.tokens)] as const
  const { sharedBytes } = shape
  return launch(`linear_${shape.tokens}`, { grid, threads: 256, sharedBytes }, struct)
}
