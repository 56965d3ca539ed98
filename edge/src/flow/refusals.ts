import { ApiError } from '#protocol/errors.ts'
import type { LimitState } from '../admission/tenant-capacity.ts'
import { formatDuration } from '../rate-limit-headers.ts'
import type { TenantRefused } from '../objects/tenant/tenant.ts'
import type { TurnRefusal } from '../objects/pool/pool.ts'
import { overloaded } from '../failures.ts'

/** Spread over the advised wait, so that clients turned away together do not come back together. */
const JITTER = 0.2

const DIMENSION_WORDS = {
  requests: 'requests per minute',
  inputTokens: 'input tokens per minute',
  uncachedInputTokens: 'uncached input tokens per minute',
  outputTokens: 'output tokens per minute',
  tokens: 'tokens per minute',
} as const

/** What the client is told when its tenant's object does not admit a request. */
export function refusalError(
  refused: Omit<TenantRefused, 'waited'>,
  model: string,
  random: () => number,
): ApiError {
  switch (refused.reason) {
    case 'rate':
    case 'concurrency':
      return limitError(refused, model, random)
    case 'balance':
      return new ApiError(
        'insufficient_balance',
        'Insufficient Balance: what is left does not pay for this request. Top up and try again.',
      )
    case 'max_cost':
      return new ApiError(
        'invalid_parameter',
        "'X-Max-Cost' does not pay for this prompt and one token of output.",
        { param: 'x-max-cost' },
      )
    case 'no_price':
      return new ApiError(
        'permission_denied',
        'The plan of this account does not include this model.',
        {
          param: 'model',
        },
      )
    case 'key':
      return new ApiError('invalid_api_key', 'Authentication failed: the key is not valid.')
    case 'duplicate':
      return new ApiError('internal_server_error', 'The service drew a request id twice.')
    default:
      return refused.reason satisfies never
  }
}

function limitError(
  refused: Omit<TenantRefused, 'waited'>,
  model: string,
  random: () => number,
): ApiError {
  const { binding, retryAfterMs } = refused
  const waitMs = Math.max(1_000, retryAfterMs ?? 0) * (1 + JITTER * random())
  const again = `Please try again in ${formatDuration(waitMs)}.`
  return new ApiError(
    'rate_limit_exceeded',
    `Rate limit reached for ${model}${say(binding)} ${again}`,
    {
      retryAfterSeconds: waitMs / 1000,
    },
  )
}

function say(binding: LimitState | null): string {
  if (binding === null) return '.'
  const { dimension, limit, remaining, need } = binding
  if (dimension === 'concurrency') {
    const busy = `${limit - remaining} requests are already in progress`
    return `: ${busy} and your concurrency limit is ${limit}.`
  }
  const words = DIMENSION_WORDS[dimension]
  return ` on ${words}: limit ${limit}, available now ${remaining}, requested ${need}.`
}

const TURN_WORDS: Readonly<Record<TurnRefusal, string>> = {
  full: 'The queue for this model is full. Try again.',
  timeout: 'Every backend for this model is busy. Try again.',
  no_backend: 'No backend can take this request right now. Try again.',
  too_large: 'No backend of this model has room for a request of this size.',
}

/** What the client is told when the pool has no turn for it: that is our lack, never its limit. */
export function turnError(reason: TurnRefusal, random: () => number): ApiError {
  return overloaded(TURN_WORDS[reason], random)
}
