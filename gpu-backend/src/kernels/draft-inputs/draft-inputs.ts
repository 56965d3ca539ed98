import type { Device } from '../../device/device.ts'
import { rowCount, type Tensor } from '../../device/tensor.ts'
import { OpCheck } from '../check.ts'

/**
 * Gathers what the draft block combines: the normed embedding of each row's next token, and the
 * normed streams of the row it follows.
 */
export interface DraftInputsArgs {
  /** i32 `[rows]`: the next tokens. */
  readonly tokens: Tensor
  /** bf16 `[vocabulary, hidden]`. */
  readonly table: Tensor
  /** `[source rows, streams, hidden]`. */
  readonly source: Tensor
  /** i32 `[rows]`: which source row each row follows. */
  readonly picks: Tensor
  /** `[hidden]`. */
  readonly embeddingNorm: Tensor
  readonly streamNorm: Tensor
  readonly eps: number
  /** Outputs `[rows, hidden]` and `[rows, streams, hidden]`. */
  readonly embedding: Tensor
  readonly streams: Tensor
}

const check = new OpCheck('draft-inputs')

export function draftInputs(device: Device, args: DraftInputsArgs): void {
  const rows = rowCount(args.tokens)
  const [sourceRows = 0, count = 0, hidden = 0] = args.source.shape
  check.i32('tokens', args.tokens, [rows])
  check.i32('picks', args.picks, [rows])
  check.tensor('table', args.table, ['bf16', 'f32'], [rowCount(args.table), hidden])
  check.activation('source', args.source, [sourceRows, count, hidden])
  check.tensor('embeddingNorm', args.embeddingNorm, ['bf16', 'f32'], [hidden])
  check.tensor('streamNorm', args.streamNorm, ['bf16', 'f32'], [hidden])
  check.activation('embedding', args.embedding, [rows, hidden])
  check.activation('streams', args.streams, [rows, count, hidden])
  check.distinct([args.embedding, args.streams], [args.tokens, args.picks, args.source])
  if (rows > 0) device.run('draft-inputs', args)
}
