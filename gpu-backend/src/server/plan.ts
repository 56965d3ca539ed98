import { strict as assert } from 'node:assert'
import {
  contentText,
  LIMITS,
  requestedMaxTokens,
  thinkingEnabled,
  type ChatMessage,
  type ChatRequest,
} from '#protocol/chat-completions.ts'
import { ApiError } from '#protocol/errors.ts'
import type { PromptConstants } from '#weights/manifest.ts'
import type { NewGeneration } from '../engine/client.ts'
import { attachToSystem, type Message } from '../text/conversation.ts'
import { opensReasoning, PromptError, renderPrompt, type PromptPiece } from '../text/prompt.ts'
import { jsonAt, JsonSourceError, parseJsonSource, type JsonNode } from '../text/python-json.ts'
import { toolShapes, type ToolShapes } from '../text/tool-shapes.ts'
import { grammarFor } from './answer-form.ts'
import { effortConstants, effortFor } from './effort.ts'
import type { ServedModel } from './served-model.ts'

/** A request, settled: what the engine is to do, and how its answer is to be read and shown. */
export interface GenerationPlan {
  readonly generation: NewGeneration
  /** The answer begins in the chain of thought. */
  readonly thinking: boolean
  readonly toolsAllowed: boolean
  readonly tools: ToolShapes
  readonly stops: readonly string[]
  readonly logprobs: boolean
  readonly stream: boolean
  readonly includeUsage: boolean
}

export interface PlanInput {
  readonly request: ChatRequest
  /** The body `request` was parsed from: tools keep their key order and the spelling of numbers. */
  readonly source: string
  readonly served: ServedModel
  readonly terms: RequestTerms
}

/** What the edge says of a request, beside what its body says. */
export interface RequestTerms {
  readonly tenantId: string
  /** Output tokens the edge has paid for; null: as many as the request asks for. */
  readonly grantedTokens: number | null
  /** Higher goes first. */
  readonly priority: number
  /** Unix time by which the answer is wanted; null: whenever it comes. */
  readonly deadlineMs: number | null
}

/** A request whose prompt is still text: encoding a long one takes a thread of its own. */
export interface PreparedPlan {
  readonly pieces: readonly PromptPiece[]
  /** `prompt`: the token ids of `pieces`. Throws `ApiError` when they do not fit. */
  readonly finish: (prompt: Int32Array) => GenerationPlan
}

/** DeepSeek's thinking models sample like this whatever a request says. */
const thinkingSampling = { temperature: 1, topP: 1 }

/** Throws `ApiError` for what this model, or this version of the backend, cannot do. */
export function preparePlan({ request, source, served, terms }: PlanInput): PreparedPlan {
  if (request.model !== served.id) {
    const message = `Model Not Exist: this backend serves ${served.id}.`
    throw new ApiError('model_not_found', message, { param: 'model' })
  }
  const thinking = thinkingEnabled(request)
  const parts = sourceParts(request, source)
  const { functions } = parts
  const pieces = render({ request, served, thinking, parts })
  const begins = opensReasoning(pieces)
  const grammar = grammarFor({ request, thinking: begins, ...parts })
  const plan = {
    thinking: begins,
    toolsAllowed: functions.length > 0,
    tools: toolShapes(functions),
    stops: stopsOf(request),
    logprobs: request.logprobs === true,
    stream: request.stream === true,
    includeUsage: request.stream_options?.include_usage === true,
  }
  const sampling = {
    ...(thinking ? thinkingSampling : requestedSampling(request)),
    seed: request.seed ?? null,
  }
  return {
    pieces,
    finish: (prompt) => {
      const budget = outputBudget(request, prompt.length, served.contextTokens)
      const generation = {
        prompt,
        outputTokensMax: Math.min(budget, terms.grantedTokens ?? budget),
        sampling,
        topLogprobs: request.logprobs === true ? (request.top_logprobs ?? 0) : null,
        priority: terms.priority,
        deadlineMs: terms.deadlineMs,
        cacheSalt: cacheSalt(terms.tenantId, request.user_id ?? request.user ?? null),
        ...(grammar === null ? {} : { grammar }),
      }
      return { generation, ...plan }
    },
  }
}

/** Cached prompts are shared within a tenant's user, as the API's `user_id` promises. */
function cacheSalt(tenantId: string, userId: string | null): string {
  return JSON.stringify([tenantId, userId])
}

function requestedSampling(request: ChatRequest): { temperature: number; topP: number } {
  return { temperature: request.temperature ?? 1, topP: request.top_p ?? 1 }
}

function stopsOf({ stop }: ChatRequest): readonly string[] {
  if (stop == null) return []
  return typeof stop === 'string' ? [stop] : stop
}

/** What a request's body holds in source form, for its order of keys and spelling of numbers. */
interface SourceParts {
  /** The `function` objects of the tools that may be called. */
  readonly functions: readonly JsonNode[]
  readonly responseSchema: JsonNode | null
}

function sourceParts(request: ChatRequest, source: string): SourceParts {
  const hasTools = request.tool_choice !== 'none' && (request.tools?.length ?? 0) > 0
  const hasSchema = request.response_format?.json_schema?.schema != null
  if (!hasTools && !hasSchema) return { functions: [], responseSchema: null }
  const document = parseSource(request, source)
  return {
    functions: hasTools ? toolFunctions(document) : [],
    responseSchema: jsonAt(document, 'response_format', 'json_schema', 'schema') ?? null,
  }
}

function toolFunctions(document: JsonNode): readonly JsonNode[] {
  const tools = jsonAt(document, 'tools')
  assert(tools?.kind === 'array', 'the body that was parsed has its tools')
  return tools.items.map((tool) => {
    const definition = jsonAt(tool, 'function')
    assert(definition !== undefined, 'a tool that was parsed has its function')
    return definition
  })
}

function parseSource(request: ChatRequest, source: string): JsonNode {
  try {
    return parseJsonSource(source)
  } catch (cause) {
    if (!(cause instanceof JsonSourceError)) throw cause
    const message = `The request body cannot be used: ${cause.message}.`
    const param = (['tools', 'response_format'] as const).find((key) => isDeep(request[key]))
    throw new ApiError(
      'invalid_request_error',
      message,
      param === undefined ? {} : { cause, param },
    )
  }
}

/** Nested about as deep as is read, or deeper. */
function isDeep(value: unknown): boolean {
  let level: readonly unknown[] = [value]
  for (let depth = 0; level.length > 0; depth++) {
    if (depth > 100) return true
    level = level.flatMap((item) =>
      typeof item === 'object' && item !== null ? Object.values(item) : [],
    )
  }
  return false
}

interface RenderInput {
  readonly request: ChatRequest
  readonly served: ServedModel
  readonly thinking: boolean
  readonly parts: SourceParts
}

function render({ request, served, thinking, parts }: RenderInput): readonly PromptPiece[] {
  const effort = effortFor(served.release, request.reasoning_effort)
  const messages = attachToSystem(request.messages.map(toMessage), {
    tools: parts.functions,
    responseFormat: parts.responseSchema ?? undefined,
  })
  try {
    // A level the weights were trained with needs its text; without it the level would be a fiction.
    if (
      thinking &&
      effort !== 'default' &&
      served.constants[effortConstants[effort]] === undefined
    ) {
      throw new PromptError(effortConstants[effort], `effort '${effort}'`)
    }
    return renderPrompt({ messages }, { thinking, effort, constants: served.constants })
  } catch (cause) {
    if (!(cause instanceof PromptError)) throw cause
    const param = paramOfConstant[cause.constant]
    const message = `'${param}' cannot be served: ${cause.message}.`
    throw new ApiError('invalid_request_error', message, { cause, param })
  }
}

const paramOfConstant: Readonly<Record<keyof PromptConstants, string>> = {
  toolsHead: 'tools',
  toolsTail: 'tools',
  effortMax: 'reasoning_effort',
  effortHigh: 'reasoning_effort',
  responseFormat: 'response_format',
}

function toMessage(message: ChatMessage): Message {
  switch (message.role) {
    case 'system':
    case 'developer':
      // The models' own developer role is an internal one; the API's is a system message.
      return { role: 'system', content: contentText(message.content) }
    case 'user':
      return { role: 'user', content: contentText(message.content) }
    case 'tool':
      return {
        role: 'tool',
        toolCallId: message.tool_call_id,
        content: contentText(message.content),
      }
    case 'assistant':
      return {
        role: 'assistant',
        content: contentText(message.content),
        reasoningContent: message.reasoning_content ?? '',
        toolCalls: (message.tool_calls ?? []).map((call) => ({ id: call.id, ...call.function })),
        prefix: message.prefix === true,
      }
  }
}

/**
 * How many tokens may be generated. An explicit limit has to fit the window together with the
 * prompt; without one the answer may take whatever the prompt leaves.
 */
function outputBudget(request: ChatRequest, promptTokens: number, contextTokens: number): number {
  const requested = requestedMaxTokens(request)
  const left = contextTokens - promptTokens
  if (left < (requested ?? 1)) {
    const total = promptTokens + (requested ?? 0)
    throw new ApiError(
      'context_length_exceeded',
      `This model's maximum context length is ${contextTokens} tokens. However, you requested ` +
        `${total} tokens (${promptTokens} in the messages, ${requested ?? 0} in the completion). ` +
        'Shorten the messages or ask for fewer tokens.',
      { param: 'messages' },
    )
  }
  return requested ?? Math.min(left, LIMITS.maxTokens)
}
