import type { LaunchOp } from '../../device/cuda/launch.ts'
import { ArgStruct, launch } from '../cuda/args.ts'
import type { DraftJoinArgs } from './draft-join.ts'

export const launchDraftJoin: LaunchOp<DraftJoinArgs> = ({ embedding, streams }, target) => {
  const [rows = 0, count = 0, hidden = 0] = streams.shape
  const struct = new ArgStruct('draft-join', target)
    .activation(embedding)
    .activation(streams)
    .i32(count)
    .i32(hidden)
  return [launch('draft_join', { grid: [rows, Math.ceil(hidden / 256)], threads: 256 }, struct)]
}
