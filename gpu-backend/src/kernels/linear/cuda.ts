import type { Launch, LaunchOp, LaunchTarget } from '../../device/cuda/launch.ts'
import { rowCount } from '../../device/tensor.ts'
import { ArgStruct, launch } from '../cuda/args.ts'
import {
  fewSharedBytes,
  manyRows,
  manySharedBytes,
  warpOutputs,
  warpsOfBlock,
} from '../cuda/matrix.ts'
import type { LinearArgs, LinearPart } from './linear.ts'

/** Parts of one launch (`partsMax` of `linear.cu`), and what each takes of its arguments. */
const partsMax = 8
const partBytes = 48

/** Tokens a block takes, and the kernel that does. */
interface Shape {
  readonly kernel: string
  readonly tokens: number
  readonly outputs: number
  readonly sharedBytes: number
}

export const launchLinear: LaunchOp<LinearArgs> = (args, target) => {
  const parts = args.parts.filter(({ weight }) => rowCount(weight.weight) > 0)
  const launches: Launch[] = []
  for (let at = 0; at < parts.length; at += partsMax) {
    launches.push(launchParts(args, parts.slice(at, at + partsMax), target))
  }
  return launches
}

function launchParts(
  { input, quantise }: LinearArgs,
  parts: readonly LinearPart[],
  target: LaunchTarget,
): Launch {
  const rows = rowCount(input)
  const shape = shapeFor(rows)
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
  return launch(shape.kernel, { grid, threads: 256, sharedBytes: shape.sharedBytes }, struct)
}

function shapeFor(rows: number): Shape {
  if (rows >= manyRows) {
    const outputs = warpOutputs * warpsOfBlock
    return { kernel: 'linear_64', tokens: 64, outputs, sharedBytes: manySharedBytes(8) }
  }
  const tiles = rows <= 8 ? 1 : 2
  const kernel = `linear_${8 * tiles}`
  return { kernel, tokens: 8 * tiles, outputs: warpOutputs, sharedBytes: fewSharedBytes(tiles) }
}
