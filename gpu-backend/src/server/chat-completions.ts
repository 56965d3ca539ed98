import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import type { HttpBindings } from '@hono/node-server'
import type { Handler } from 'hono'
import { parseChatRequest } from '#protocol/chat-completions.ts'
import { ApiError } from '#protocol/errors.ts'
import {
  DEADLINE_HEADER,
  GRANTED_OUTPUT_TOKENS_HEADER,
  PRIORITY_HEADER,
  PRIORITY_MAX,
  RESUMABLE_HEADER,
  RESUMABLE_SECONDS_MAX,
} from '#protocol/headers.ts'
import { parseJsonBody } from '#protocol/json-body.ts'
import type { RequestClaims } from '#protocol/service-token.ts'
import { RunningGeneration } from '../engine/client.ts'
import { errorFields } from '../log.ts'
import { Answer } from './answer.ts'
import type { AppEnv } from './app.ts'
import type { Backend } from './backend.ts'
import { DirectEvents, ResumableEvents, type EventOutput } from './event-output.ts'
import { ActiveGeneration } from './generation.ts'
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
    const { requestIds } = backend.options
    const claims = c.get('claims')
    const { requestId } = claims
    // Taken before anything is read, so that whoever asks for its record hears that it is under way.
    if (!requestIds.claim(requestId)) {
      const message = "'x-request-id' has been used; a retry needs an id of its own."
      throw new ApiError('invalid_request_error', message, { param: 'x-request-id' })
    }
    let generation: ActiveGeneration | null = null
    try {
      generation = await accept(backend, { claims, header: (name) => c.req.header(name), ...c.env })
    } finally {
      if (generation === null) requestIds.release(requestId)
    }
    if (generation !== null) await run(backend, generation)
    return RESPONSE_ALREADY_SENT
  }
}

interface Arrival extends HttpBindings {
  readonly claims: RequestClaims
  readonly header: HeaderOf
}

/** From the body to the engine's queue; null when the client has gone meanwhile. */
async function accept(backend: Backend, arrival: Arrival): Promise<ActiveGeneration | null> {
  const { claims, header, incoming, outgoing } = arrival
  const body = new ResponseBody(outgoing)
  const terms = termsOf(header, claims, backend.options.now())
  const resumableSeconds = wholeHeader(header, RESUMABLE_HEADER, 1, RESUMABLE_SECONDS_MAX)
  const source = await readBody(incoming, backend.options.config.limits.bodyBytesMax)
  const request = parseChatRequest(parseJsonBody(source))
  const { served, encoder } = backend.loaded()
  const { pieces, finish } = preparePlan({ request, source, served, terms })
  const prompt = await encoder.encode(pieces, () => !body.closedEarly)
  if (prompt === null || body.closedEarly) return null
  const plan = finish(prompt)
  backend.requireReady()
  const running = backend.options.engine.submit(plan.generation)
  if (!(running instanceof RunningGeneration)) {
    throw backend.unavailable('This backend is full. Try again.')
  }
  const output = outputOf(backend, { requestId: claims.requestId, body, plan, resumableSeconds })
  return startGeneration(backend, { claims, plan, body, output }, running)
}

async function run(backend: Backend, generation: ActiveGeneration): Promise<void> {
  const { requestIds, log } = backend.options
  const { requestId } = generation.claims
  try {
    await backend.requests.run(generation)
  } catch (error) {
    // A bug: the status may have gone out, so the only honest end is a broken connection.
    log.error('request_crashed', { request_id: requestId, ...errorFields(error) })
    generation.breakOff()
  } finally {
    if (generation.recorded) requestIds.finish(requestId)
    else requestIds.forbid(requestId)
  }
}

type HeaderOf = (name: string) => string | undefined

function termsOf(header: HeaderOf, { tenantId }: RequestClaims, nowMs: number): RequestTerms {
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
  readonly claims: RequestClaims
  readonly plan: GenerationPlan
  readonly body: ResponseBody
  readonly output: EventOutputs
}

/** Where a stream's events go: to its one connection, or to whichever comes for them. */
interface EventOutputs {
  readonly events: EventOutput
  readonly resumable: ResumableEvents | null
}

/** An answer that is not streamed comes whole or not at all: there is nothing to resume. */
function outputOf(
  backend: Backend,
  options: {
    readonly requestId: string
    readonly body: ResponseBody
    readonly plan: GenerationPlan
    readonly resumableSeconds: number | null
  },
): EventOutputs {
  const { requestId, body, plan, resumableSeconds } = options
  if (!plan.stream || resumableSeconds === null) {
    return { events: new DirectEvents(body, requestId), resumable: null }
  }
  const resumable = new ResumableEvents({
    body,
    requestId,
    graceMs: resumableSeconds * 1000,
    unitsMax: backend.options.config.limits.resumeUnitsPerStreamMax,
  })
  return { events: resumable, resumable }
}

function startGeneration(
  backend: Backend,
  admission: Admission,
  running: RunningGeneration,
): ActiveGeneration {
  const { claims, plan, body, output } = admission
  const { config, keepUsage, log, now, randomId, metrics } = backend.options
  const served = backend.served()
  const acceptedAtMs = now()
  return new ActiveGeneration({
    claims,
    plan,
    body,
    audience: output.resumable ?? body,
    resumable: output.resumable,
    served,
    running,
    answer: new Answer({ plan, served, randomId }),
    sink: createSink(backend, admission, acceptedAtMs),
    acceptedAtMs,
    timings: config.timings,
    now,
    keepUsage,
    onEnded: (usage) => metrics.requestEnded(usage),
    log,
  })
}

function createSink(
  backend: Backend,
  { claims, plan, body, output }: Admission,
  acceptedAtMs: number,
): AnswerSink {
  const options = {
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
  if (plan.stream) return new EventStreamSink(output.events, options)
  return new WholeAnswerSink({ ...options, body, requestId: claims.requestId })
}
