export type FinishReason =
  | 'stop'
  | 'length'
  | 'tool_calls'
  | 'content_filter'
  | 'insufficient_system_resource'

/** Token counts as the chat-completions API reports them. */
export interface Usage {
  readonly prompt_tokens: number
  readonly completion_tokens: number
  readonly total_tokens: number
  readonly prompt_tokens_details: { readonly cached_tokens: number }
  readonly completion_tokens_details: { readonly reasoning_tokens: number }
  readonly prompt_cache_hit_tokens: number
  readonly prompt_cache_miss_tokens: number
}

export interface TokenCounts {
  readonly promptTokens: number
  readonly cachedTokens: number
  /** Everything generated, reasoning included. */
  readonly completionTokens: number
  readonly reasoningTokens: number
}

export function toUsage(counts: TokenCounts): Usage {
  return {
    prompt_tokens: counts.promptTokens,
    completion_tokens: counts.completionTokens,
    total_tokens: counts.promptTokens + counts.completionTokens,
    prompt_tokens_details: { cached_tokens: counts.cachedTokens },
    completion_tokens_details: { reasoning_tokens: counts.reasoningTokens },
    prompt_cache_hit_tokens: counts.cachedTokens,
    prompt_cache_miss_tokens: counts.promptTokens - counts.cachedTokens,
  }
}
