import type { Cost } from './cost.ts'

/**
 * What a request will probably use, from what the same tenant's last requests to the same model
 * used. Sums fade, so that a tenant who changes language or application is followed in some tens of
 * requests; outputs are a ring, of which the 90th percentile is taken.
 */
export interface EstimatorState {
  readonly bytes: number
  readonly promptTokens: number
  readonly cachedTokens: number
  /** The last outputs, oldest overwritten first. */
  readonly outputs: readonly number[]
  readonly next: number
}

export const NEW_ESTIMATOR: EstimatorState = {
  bytes: 0,
  promptTokens: 0,
  cachedTokens: 0,
  outputs: [],
  next: 0,
}

/** The little that an isolate needs to estimate by itself; rides on leases. */
export interface Estimates {
  /** At most 1: a token is at least a byte of the request. */
  readonly tokensPerByte: number
  /** The share of the prompt expected to be found in the prefix cache. */
  readonly cachedShare: number
  /** 90th percentile of recent outputs. */
  readonly outputTokens: number
}

export interface RequestSize {
  readonly bodyBytes: number
  /** What the request allows: its `max_tokens`, or the default where it names none. */
  readonly outputTokensMax: number
}

/** Text of ordinary languages has 3 to 4.5 bytes a token. */
const TOKENS_PER_BYTE_DEFAULT = 1 / 3.5
const OUTPUT_TOKENS_DEFAULT = 2048
/** The longest answers would have each of their successors reserve minutes of a limit. */
const OUTPUT_TOKENS_MAX = 16_384
const OUTPUTS_KEPT = 100
const OUTPUTS_MIN = 10
/** What is left of a request's weight when the next one is learnt. */
const FADING = 0.95

export function estimatesOf(state: EstimatorState): Estimates {
  const known = state.bytes > 0 && state.promptTokens > 0
  return {
    tokensPerByte: known ? Math.min(1, state.promptTokens / state.bytes) : TOKENS_PER_BYTE_DEFAULT,
    cachedShare: known ? state.cachedTokens / state.promptTokens : 0,
    outputTokens:
      state.outputs.length < OUTPUTS_MIN
        ? OUTPUT_TOKENS_DEFAULT
        : Math.min(OUTPUT_TOKENS_MAX, percentile90(state.outputs)),
  }
}

/** What to reserve for one request; at least one token each way. */
export function estimateCost(estimates: Estimates, size: RequestSize): Cost {
  const { bodyBytes, outputTokensMax } = size
  const inputTokens = atLeastOne(
    Math.min(bodyBytes, Math.ceil(bodyBytes * estimates.tokensPerByte)),
  )
  return {
    requests: 1,
    inputTokens,
    uncachedInputTokens: atLeastOne(Math.ceil(inputTokens * (1 - estimates.cachedShare))),
    outputTokens: atLeastOne(Math.min(outputTokensMax, estimates.outputTokens)),
  }
}

/** The mean of recent outputs: what many requests together come to, where few exceed the estimate. */
export function meanOutputTokens(state: EstimatorState): number {
  const { outputs } = state
  if (outputs.length < OUTPUTS_MIN) return OUTPUT_TOKENS_DEFAULT
  return Math.ceil(outputs.reduce((sum, tokens) => sum + tokens, 0) / outputs.length)
}

export interface LearntRequest {
  readonly bodyBytes: number
  readonly promptTokens: number
  readonly cachedTokens: number
  readonly completionTokens: number
}

/** The state after one more request has shown what it really used. */
export function learn(state: EstimatorState, request: LearntRequest): EstimatorState {
  const outputs = [...state.outputs]
  outputs[state.next] = request.completionTokens
  return {
    bytes: state.bytes * FADING + request.bodyBytes,
    promptTokens: state.promptTokens * FADING + request.promptTokens,
    cachedTokens: state.cachedTokens * FADING + request.cachedTokens,
    outputs,
    next: (state.next + 1) % OUTPUTS_KEPT,
  }
}

/** Nearest rank: the smallest value that nine in ten do not exceed. */
function percentile90(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.ceil(sorted.length * 0.9) - 1] ?? 0
}

function atLeastOne(tokens: number): number {
  return Math.max(1, tokens)
}
