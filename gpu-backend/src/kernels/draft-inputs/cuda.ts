import type { LaunchOp } from '../../device/cuda/launch.ts'
import { rowCount } from '../../device/tensor.ts'
import { ArgStruct, launch } from '../cuda/args.ts'
import type { DraftInputsArgs } from './draft-inputs.ts'

export const launchDraftInputs: LaunchOp<DraftInputsArgs> = (args, target) => {
  const [, count = 0, hidden = 0] = args.source.shape
  const struct = new ArgStruct('draft-inputs', target)
    .tensor(args.tokens)
    .values(args.table)
    .activation(args.source)
    .tensor(args.picks)
    .values(args.embeddingNorm)
    .values(args.streamNorm)
    .activation(args.embedding)
    .activation(args.streams)
    .i32(count)
    .i32(hidden)
    .f32(args.eps)
  const shape = {
    grid: [rowCount(args.tokens), 1 + count] as const,
    threads: 256,
    sharedBytes: 4 * (32 + hidden),
  }
  return [launch('draft_inputs', shape, struct)]
}
