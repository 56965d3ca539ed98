import type { PackOp } from '../native/words.ts'
import type { QueryRotateArgs } from './query-rotate.ts'

export const packQueryRotate: PackOp<QueryRotateArgs> = (words, args) => {
  words.tensor(args.queries)
  words.tensor(args.frequencies)
  words.tensor(args.rows)
  words.number(args.eps)
}
