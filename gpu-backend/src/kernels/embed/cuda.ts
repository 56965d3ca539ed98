import type { LaunchOp } from '../../device/cuda/launch.ts'
import { rowCount } from '../../device/tensor.ts'
import { ArgStruct, launch } from '../cuda/args.ts'
import type { EmbedArgs } from './embed.ts'

export const launchEmbed: LaunchOp<EmbedArgs> = ({ tokens, table, streams }, target) => {
  const [vocabulary = 0, hidden = 0] = table.shape
  const args = new ArgStruct('embed', target)
    .tensor(tokens)
    .values(table)
    .activation(streams)
    .i32(vocabulary)
    .i32(hidden)
    .i32(streams.shape[1] ?? 0)
  const grid = [rowCount(tokens), Math.ceil(hidden / 1024)] as const
  return [launch('embed_rows', { grid, threads: 256 }, args)]
}
