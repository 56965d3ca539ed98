export interface SamplingOptions {
  /** 0 picks the likeliest token. */
  readonly temperature: number
  /** The smallest set of likeliest tokens that holds this much probability is drawn from. */
  readonly topP: number
  /** null: the engine draws one. */
  readonly seed: number | null
}

export interface TokenLogprob {
  readonly token: number
  /** Natural logarithm; `outsideTopLogprob` for a token that is not among the top 20. */
  readonly logprob: number
}

export interface SampledLogprobs extends TokenLogprob {
  readonly top: readonly TokenLogprob[]
}

/** The API reports probabilities of the 20 likeliest tokens and this for every other. */
export const outsideTopLogprob = -9999
export const topLogprobsMax = 20
