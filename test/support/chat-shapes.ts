import { z } from 'zod'

/** The API's answers, with no key that is not in the contract. */
const usage = z.strictObject({
  prompt_tokens: z.int(),
  completion_tokens: z.int(),
  total_tokens: z.int(),
  prompt_tokens_details: z.strictObject({ cached_tokens: z.int() }),
  completion_tokens_details: z.strictObject({ reasoning_tokens: z.int() }),
  prompt_cache_hit_tokens: z.int(),
  prompt_cache_miss_tokens: z.int(),
})

const triple = { token: z.string(), logprob: z.number(), bytes: z.array(z.int()) }
const entries = z.array(
  z.strictObject({ ...triple, top_logprobs: z.array(z.strictObject(triple)) }),
)
const logprobs = z
  .strictObject({ content: entries.nullable(), reasoning_content: entries.nullable() })
  .nullable()

const head = {
  id: z.string(),
  created: z.int(),
  model: z.string(),
  system_fingerprint: z.string(),
}
const finishReason = z.enum(['stop', 'length', 'tool_calls'])

export const chunkSchema = z.strictObject({
  ...head,
  object: z.literal('chat.completion.chunk'),
  choices: z.array(
    z.strictObject({
      index: z.literal(0),
      delta: z.strictObject({
        role: z.literal('assistant').optional(),
        content: z.string().nullable().optional(),
        reasoning_content: z.string().optional(),
        tool_calls: z.array(z.looseObject({ index: z.int() })).optional(),
      }),
      logprobs,
      finish_reason: finishReason.nullable(),
    }),
  ),
  usage: usage.nullable().optional(),
})

export type Chunk = z.infer<typeof chunkSchema>

export const completionSchema = z.strictObject({
  ...head,
  object: z.literal('chat.completion'),
  choices: z.tuple([
    z.strictObject({
      index: z.literal(0),
      message: z.strictObject({
        role: z.literal('assistant'),
        content: z.string(),
        reasoning_content: z.string().optional(),
        tool_calls: z.array(z.looseObject({ id: z.string() })).optional(),
      }),
      logprobs,
      finish_reason: finishReason,
    }),
  ]),
  usage,
})
