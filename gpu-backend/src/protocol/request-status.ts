import { z } from 'zod'

/** `GET /v1/requests/{id}`: how one request of the caller's tenant is doing, or how it ended. */
const count = z.int().min(0)
const unixMs = z.int().min(0)

export const requestStatusSchema = z.object({
  id: z.string().min(1),
  object: z.literal('request'),
  model: z.string().min(1),
  state: z.enum(['queued', 'running', 'finished']),
  /** null until it has finished. */
  outcome: z.enum(['stop', 'length', 'tool_calls', 'cancelled', 'failed']).nullable(),
  prompt_tokens: count,
  cached_tokens: count,
  completion_tokens: count,
  reasoning_tokens: count,
  delivered_tokens: count,
  accepted_at_ms: unixMs,
  /** null: not yet, or never. */
  started_at_ms: unixMs.nullable(),
  first_token_at_ms: unixMs.nullable(),
  finished_at_ms: unixMs.nullable(),
  /** Number of the latest event that `…/events` can give; null when the stream cannot be resumed. */
  last_event: count.nullable(),
})

export type RequestStatus = z.infer<typeof requestStatusSchema>
