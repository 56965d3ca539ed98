import type { Launch, LaunchOp, LaunchTarget } from '../../device/cuda/launch.ts'
import { rowCount } from '../../device/tensor.ts'
import { ArgStruct, launch } from '../cuda/args.ts'
import { productShape } from '../cuda/matrix.ts'
import type { LinearArgs, LinearPart } from './linear.ts'

/** Parts of one launch (`partsMax` of `linear.cu`), and what each takes of its arguments. */
const partsMax = 8
const partBytes = 48

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
