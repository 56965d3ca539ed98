import type { PackOp } from '../native/words.ts'
import type { DraftJoinArgs } from './draft-join.ts'

export const packDraftJoin: PackOp<DraftJoinArgs> = (words, { embedding, streams }) => {
  words.tensor(embedding)
  words.tensor(streams)
}
