import type { PackOp, WordList } from '../native/words.ts'
import type { StreamUpdate } from '../numerics/streams.ts'
import type { HcPostArgs } from './hc-post.ts'

export const packHcPost: PackOp<HcPostArgs> = (words, { streams, update }) => {
  words.tensor(streams)
  packUpdate(words, update)
}

/** An update that may be absent: a flag, then its tensors. */
export function packPending(words: WordList, pending: StreamUpdate | null): void {
  words.flag(pending !== null)
  if (pending !== null) packUpdate(words, pending)
}

function packUpdate(words: WordList, { output, post, mix }: StreamUpdate): void {
  words.tensor(output)
  words.tensor(post)
  words.tensor(mix)
}
