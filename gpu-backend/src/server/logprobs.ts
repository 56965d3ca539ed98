import type { SampledLogprobs, TokenLogprob } from '../engine/sampling.ts'
import type { Tokenizer } from '../text/tokenizer.ts'

interface LogprobTriple {
  readonly token: string
  readonly logprob: number
  readonly bytes: readonly number[]
}

/** One token's entry in `choices[].logprobs`. */
export interface LogprobEntry extends LogprobTriple {
  readonly top_logprobs: readonly LogprobTriple[]
}

/** Ids and numbers as the API shows them. A token of broken UTF-8 is told by its bytes. */
export function logprobEntry(tokenizer: Tokenizer, sampled: SampledLogprobs): LogprobEntry {
  const triple = ({ token, logprob }: TokenLogprob): LogprobTriple => {
    const bytes = tokenizer.bytesOf(token)
    return { token: new TextDecoder().decode(bytes), logprob, bytes: [...bytes] }
  }
  return { ...triple(sampled), top_logprobs: sampled.top.map(triple) }
}
