import { z } from 'zod'
import { ApiError } from './errors.ts'

/** Limits of the public API; the served model's own limits are checked where the model is known. */
export const LIMITS = {
  maxTokens: 393_216,
  tools: 128,
  stops: 16,
  /** Of one stop string, in UTF-16 units; answers are searched for them as they are made. */
  stopUnits: 1024,
  topLogprobs: 20,
  userIdCharacters: 512,
} as const

const FUNCTION_NAME = /^[a-zA-Z0-9_-]{1,64}$/
const USER_ID = /^[a-zA-Z0-9_-]+$/

const textPart = z.object({ type: z.literal('text'), text: z.string() })
const content = z.union([z.string(), z.array(textPart)], {
  error: 'must be a string or an array of {"type":"text","text":…} parts',
})

const toolCall = z.object({
  id: z.string(),
  type: z.literal('function').default('function'),
  function: z.object({ name: z.string(), arguments: z.string() }),
})

const systemMessage = z.object({ role: z.literal('system'), content })
const developerMessage = z.object({ role: z.literal('developer'), content })
const userMessage = z.object({ role: z.literal('user'), content })
const assistantMessage = z.object({
  role: z.literal('assistant'),
  content: content.nullish(),
  reasoning_content: z.string().nullish(),
  tool_calls: z.array(toolCall).nullish(),
  prefix: z.boolean().nullish(),
})
const toolMessage = z.object({ role: z.literal('tool'), tool_call_id: z.string(), content })

const message = z.discriminatedUnion(
  'role',
  [systemMessage, developerMessage, userMessage, assistantMessage, toolMessage],
  { error: 'must be one of system, developer, user, assistant, tool' },
)

const tool = z.object({
  type: z.literal('function'),
  function: z.looseObject({
    name: z.string().regex(FUNCTION_NAME, 'must match ^[a-zA-Z0-9_-]{1,64}$'),
    description: z.string().nullish(),
    parameters: z.record(z.string(), z.unknown()).nullish(),
    strict: z.boolean().nullish(),
  }),
})

const responseFormat = z.object({
  type: z.enum(['text', 'json_object', 'json_schema']),
  json_schema: z.looseObject({ schema: z.record(z.string(), z.unknown()).nullish() }).nullish(),
})

const toolChoice = z.union(
  [
    z.enum(['none', 'auto', 'required']),
    z.object({ type: z.literal('function'), function: z.object({ name: z.string() }) }),
  ],
  { error: 'must be "none", "auto", "required" or {"type":"function","function":{"name":…}}' },
)

export const REASONING_EFFORTS = [
  'none',
  'minimal',
  'low',
  'medium',
  'high',
  'xhigh',
  'max',
  'ultra',
] as const

/** An empty text would stop every answer at once, half a surrogate pair none. */
const stopText = z
  .string()
  .refine((text) => text !== '' && text.length <= LIMITS.stopUnits && text.isWellFormed(), {
    error: `must be valid Unicode of 1 to ${LIMITS.stopUnits} UTF-16 units`,
  })
const stop = z.union([stopText, z.array(stopText).max(LIMITS.stops)], {
  error: `must be a string or an array of at most ${LIMITS.stops} strings`,
})

const requestSchema = z.object({
  model: z.string(),
  messages: z.array(message).min(1, 'needs at least one message'),
  thinking: z.object({ type: z.enum(['enabled', 'disabled', 'adaptive']) }).nullish(),
  reasoning_effort: z.enum(REASONING_EFFORTS).nullish(),
  max_tokens: z.int().min(1).max(LIMITS.maxTokens).nullish(),
  max_completion_tokens: z.int().min(1).max(LIMITS.maxTokens).nullish(),
  response_format: responseFormat.nullish(),
  stop: stop.nullish(),
  stream: z.boolean().nullish(),
  stream_options: z.object({ include_usage: z.boolean().nullish() }).nullish(),
  temperature: z.number().min(0).max(2).nullish(),
  top_p: z.number().min(0).max(1).nullish(),
  tools: z.array(tool).max(LIMITS.tools, `at most ${LIMITS.tools} tools`).nullish(),
  tool_choice: toolChoice.nullish(),
  logprobs: z.boolean().nullish(),
  top_logprobs: z.int().min(0).max(LIMITS.topLogprobs).nullish(),
  user_id: z
    .string()
    .regex(USER_ID, 'must match [a-zA-Z0-9_-]+')
    .max(LIMITS.userIdCharacters)
    .nullish(),
  user: z.string().nullish(),
  frequency_penalty: z.number().min(-2).max(2).nullish(),
  presence_penalty: z.number().min(-2).max(2).nullish(),
  n: z.literal(1, { error: 'must be 1: one answer a request' }).nullish(),
  seed: z.int().nullish(),
})

export type ChatRequest = z.infer<typeof requestSchema>
export type ChatMessage = ChatRequest['messages'][number]

/**
 * Checks a parsed body against the chat-completions contract. Unknown keys are ignored. Throws
 * `ApiError`: 400 for a wrong shape or combination, 422 for a value out of range, `param` naming
 * the field.
 */
export function parseChatRequest(body: unknown): ChatRequest {
  const parsed = requestSchema.safeParse(body, { reportInput: true })
  if (!parsed.success) throw firstIssue(parsed.error)
  checkCombinations(parsed.data)
  return parsed.data
}

function firstIssue(error: z.ZodError): ApiError {
  const issue = error.issues[0]
  if (issue === undefined) return new ApiError('invalid_request_error', 'The request is invalid.')
  const param = formatPath(issue.path)
  const field = param === '' ? 'The request body' : `'${param}'`
  const code = isRangeIssue(issue) ? 'invalid_parameter' : 'invalid_request_error'
  const missing = issue.code === 'invalid_type' && issue.input === undefined && param !== ''
  const message = missing ? `${field} is required.` : `${field}: ${issue.message}.`
  return new ApiError(code, message, param === '' ? {} : { param })
}

function isRangeIssue(issue: z.core.$ZodIssue): boolean {
  // An empty `messages` is a missing part of the request rather than a number out of range.
  if (issue.code === 'too_small') return issue.origin !== 'array'
  return issue.code === 'too_big'
}

function formatPath(path: readonly PropertyKey[]): string {
  return path.reduce<string>((joined, part) => {
    if (typeof part === 'number') return `${joined}[${part}]`
    return joined === '' ? String(part) : `${joined}.${String(part)}`
  }, '')
}

function refuse(param: string, message: string): never {
  throw new ApiError('invalid_request_error', message, { param })
}

function checkCombinations(request: ChatRequest): void {
  if (request.stream_options != null && request.stream !== true) {
    refuse('stream_options', "'stream_options' is only allowed with 'stream': true.")
  }
  if (request.top_logprobs != null && request.logprobs !== true) {
    refuse('top_logprobs', "'top_logprobs' needs 'logprobs': true.")
  }
  if (thinkingEnabled(request) && forcesToolCall(request)) {
    refuse('tool_choice', '\'tool_choice\' may not force a call while thinking; use "auto".')
  }
  checkMessages(request.messages)
}

/** Whether the request demands a call, any or a certain one. */
export function forcesToolCall({ tool_choice: choice }: Pick<ChatRequest, 'tool_choice'>): boolean {
  return choice === 'required' || (choice != null && typeof choice === 'object')
}

function checkMessages(messages: readonly ChatMessage[]): void {
  const issued = new Set<string>()
  messages.forEach((entry, index) => {
    const at = `messages[${index}]`
    if (entry.role === 'tool') {
      if (!issued.has(entry.tool_call_id)) {
        refuse(
          `${at}.tool_call_id`,
          `'${at}.tool_call_id' answers no tool call of a preceding assistant message.`,
        )
      }
      return
    }
    if (entry.role !== 'assistant') return
    for (const call of entry.tool_calls ?? []) issued.add(call.id)
    if (entry.content == null && entry.tool_calls == null && entry.reasoning_content == null) {
      refuse(`${at}.content`, `'${at}' needs content, tool_calls or reasoning_content.`)
    }
    if (entry.prefix === true && index !== messages.length - 1) {
      refuse(`${at}.prefix`, "'prefix' is only allowed on the last message.")
    }
  })
}

/** `thinking.type` decides; without it effort `none` switches thinking off; the default is on. */
export function thinkingEnabled(request: ChatRequest): boolean {
  if (request.thinking != null) return request.thinking.type !== 'disabled'
  return request.reasoning_effort !== 'none'
}

/** The smaller of the two names for the output limit; null when neither was given. */
export function requestedMaxTokens(request: ChatRequest): number | null {
  const given = [request.max_tokens, request.max_completion_tokens].filter((value) => value != null)
  return given.length === 0 ? null : Math.min(...given)
}

/** A text content's parts joined; null and absent content read as the empty string. */
export function contentText(value: z.infer<typeof content> | null | undefined): string {
  if (value == null) return ''
  return typeof value === 'string' ? value : value.map((part) => part.text).join('')
}
