import type { LaunchOp } from '../../device/cuda/launch.ts'
import { rowCount } from '../../device/tensor.ts'
import { ArgStruct, launch } from '../cuda/args.ts'
import type { LatentNormArgs } from './latent-norm.ts'

export const launchLatentNorm: LaunchOp<LatentNormArgs> = (args, target) => {
  const rank = args.queryLatent.shape[1] ?? 0
  const head = args.keys.shape[1] ?? 0
  const struct = new ArgStruct('latent-norm', target)
    .activation(args.queryLatent)
    .values(args.queryNorm)
    .activation(args.keys)
    .values(args.keyNorm)
    .tensor(args.frequencies)
    .tensor(args.rows)
    .i32(rank)
    .i32(head)
    .i32(rowCount(args.frequencies))
    .flag(args.quantise)
    .f32(args.eps)
  const sharedBytes = 4 * (32 + Math.max(rank, head))
  return [
    launch('latent_norm', { grid: [rowCount(args.rows), 2], threads: 256, sharedBytes }, struct),
  ]
}
