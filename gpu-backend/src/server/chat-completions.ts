import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import type { Handler } from 'hono'
import { parseChatRequest, parseJsonBody } from '#protocol/chat-completions.ts'
import { ApiError } from '#protocol/errors.ts'
import {
  DEADLINE_HEADER,
  GRANTED_OUTPUT_TOKENS_HEADER,
  PRIORITY_HEADER,
  PRIORITY_MAX,
} from '#protocol/headers.ts'
import type { ServiceClaims } from '#protocol/service-token.ts'
import { RunningGeneration } from '../engine/client.ts'
import { errorFields } from '../log.ts'
import { Answer } from './answer.ts'
import type { AppEnv } from './app.ts'
import type { Backend } from './backend.ts'
import { ActiveGeneration } from './generation.ts'
import { encodePrompt } from '../text/prompt.ts'
import { preparePlan, type GenerationPlan, type RequestTerms } from './plan.ts'
import { readBody } from './request-body.ts'
import { ResponseBody } from './response-body.ts'
import { EventStreamSink, WholeAnswerSink, type AnswerSink } from './sinks.ts'

/**
 * `POST /v1/chat/completions`. Whatever can be refused is refused before a byte goes out; from the
 * engine's acceptance on the answer writes itself on Node's response.
 */
export function chatCompletions(backend: Backend): Handler<AppEnv> {
  return async function complete(c) {
    const { incoming, outgoing } = c.env
    const body = new ResponseBody(outgoing)
    const terms = termsOf((name) => c.req.header(name), c.get('claims'), backend.options.now())
    const source = await readBody(incoming, backend.options.config.limits.bodyBytesMax)
    const request = parseChatRequest(parseJsonBody(source))
    const served = backend.served()
    const { pieces, finish } = preparePlan({ request, source, served, terms })
    const plan = finish(encodePrompt(served.tokenizer, pieces))
    backend.requireReady()
    await serve(backend, { claims: c.get('claims'), plan, body })
    return RESPONSE_ALREADY_SENT
  }
}

type HeaderOf = (name: string) => string | undefined

function termsOf(header: HeaderOf, { tenantId }: ServiceClaims, nowMs: number): RequestTerms {
  const spanMs = wholeHeader(header, DEADLINE_HEADER, 1)
  return {
    tenantId,
    grantedTokens: wholeHeader(header, GRANTED_OUTPUT_TOKENS_HEADER, 1),
    priority: wholeHeader(header, PRIORITY_HEADER, -PRIORITY_MAX, PRIORITY_MAX) ?? 0,
    deadlineMs: spanMs === null ? null : nowMs + spanMs,
  }
}

/** A header that is a whole number; null when it is absent. */
function wholeHeader(header: HeaderOf, name: string, least: number, most = 1e15): number | null {
  const text = header(name)
  if (text === undefined) return null
  const value = /^-?\d{1,15}$/.test(text) ? Number(text) : Number.NaN
  if (value >= least && value <= most) return value
  const range = most === 1e15 ? `of at least ${least}` : `from ${least} to ${most}`
  const message = `'${name}' must be a whole number ${range}.`
  throw new ApiError('invalid_request_error', message, { param: name })
}

interface Admission {
  readonly claims: ServiceClaims
  readonly plan: GenerationPlan
  readonly body: ResponseBody
}

async function serve(backend: Backend, { claims, plan, body }: Admission): Promise<void> {
  const { requestIds } = backend.options
  const { requestId } = claims
  if (!requestIds.claim(requestId)) {
    const message = "'x-request-id' has been used; a retry needs an id of its own."
    throw new ApiError('invalid_request_error', message, { param: 'x-request-id' })
  }
  const running = backend.options.engine.submit(plan.generation)
  if (!(running instanceof RunningGeneration)) {
    requestIds.release(requestId)
    throw backend.unavailable('This backend is full. Try again.')
  }
  const generation = startGeneration(backend, { claims, plan, body }, running)
  try {
    await backend.run(generation)
  } catch (error) {
    // A bug: the status may have gone out, so the only honest end is a broken connection.
    backend.options.log.error('request_crashed', { request_id: requestId, ...errorFields(error) })
    running.cancel()
    body.breakOff()
  } finally {
    requestIds.finish(requestId)
  }
}

function startGeneration(
  backend: Backend,
  { claims, plan, body }: Admission,
  running: RunningGeneration,
): ActiveGeneration {
  const { config, keepUsage, log, now, randomId } = backend.options
  const served = backend.served()
  const acceptedAtMs = now()
  return new ActiveGeneration({
    claims,
    plan,
    body,
    served,
    running,
    answer: new Answer({ plan, served, randomId }),
    sink: createSink(backend, { claims, plan, body }, acceptedAtMs),
    acceptedAtMs,
    timings: config.timings,
    now,
    keepUsage,
    log,
  })
}

function createSink(
  backend: Backend,
  { claims, plan, body }: Admission,
  acceptedAtMs: number,
): AnswerSink {
  const options = {
    body,
    requestId: claims.requestId,
    head: {
      id: backend.options.randomId(),
      created: Math.floor(acceptedAtMs / 1000),
      model: backend.served().id,
      systemFingerprint: backend.fingerprint(),
    },
    thinking: plan.thinking,
    logprobs: plan.logprobs,
    includeUsage: plan.includeUsage,
  }
  return plan.stream ? new EventStreamSink(options) : new WholeAnswerSink(options)
}
