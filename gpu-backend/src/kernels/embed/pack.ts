import type { PackOp } from '../native/words.ts'
import type { EmbedArgs } from './embed.ts'

export const packEmbed: PackOp<EmbedArgs> = (words, { tokens, table, streams }) => {
  words.tensor(tokens)
  words.tensor(table)
  words.tensor(streams)
}
