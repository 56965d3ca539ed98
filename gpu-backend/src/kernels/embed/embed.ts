import type { Device } from '../../device/device.ts'
import { rowCount, type Tensor } from '../../device/tensor.ts'
import { activationDtypes, OpCheck } from '../check.ts'

/** Starts the residual streams: every stream of a row is its token's embedding. */
export interface EmbedArgs {
  /** i32 `[rows]`, each below the vocabulary's size. */
  readonly tokens: Tensor
  /** bf16 `[vocabulary, hidden]`. */
  readonly table: Tensor
  /** Output `[rows, streams, hidden]`. */
  readonly streams: Tensor
}

const check = new OpCheck('embed')

export function embed(device: Device, args: EmbedArgs): void {
  const rows = rowCount(args.tokens)
  const [vocabulary = 0, hidden = 0] = args.table.shape
  check.i32('tokens', args.tokens, [rows])
  check.tensor('table', args.table, ['bf16', 'f32'], [vocabulary, hidden])
  check.tensor('streams', args.streams, activationDtypes, [
    rows,
    args.streams.shape[1] ?? 0,
    hidden,
  ])
  check.distinct([args.streams], [args.tokens, args.table])
  if (rows > 0) device.run('embed', args)
}
