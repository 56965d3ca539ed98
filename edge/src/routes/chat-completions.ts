import { Hono } from 'hono'
import { routePath } from 'hono/route'
import { parseChatRequest } from '#protocol/chat-completions.ts'
import { ApiError, errorEvent } from '#protocol/errors.ts'
import { RESUMABLE_HEADER, RESUMABLE_SECONDS_MAX } from '#protocol/headers.ts'
import type { AppContext, AppDeps, AppEnv } from '../context.ts'
import type { Pool } from '../env.ts'
import { logFailure, refuseMethod } from '../failures.ts'
import { admit, maxCostOf, maxWaitOf, sizeOf } from '../flow/admit.ts'
import type { Asked } from '../flow/admit.ts'
import { dispatch } from '../flow/dispatch.ts'
import type { Dispatched, Job } from '../flow/dispatch.ts'
import { keepPlace } from '../flow/heartbeat.ts'
import { LeaseBook } from '../flow/lease-book.ts'
import { endTurn, giveTurnBack, PoolBook } from '../flow/turn.ts'
import { mayUseModel } from '../keys/access.ts'
import { requireScope } from '../middleware/authenticate.ts'
import { AnswerHeaders } from '../rate-limit-headers.ts'
import { parseJsonBytes, readBody } from '../request-body.ts'
import { BROKEN_STREAM, pumpBody, STREAM_HEADERS } from '../upstream/pump.ts'
import type { BodyEnd } from '../upstream/pump.ts'

const PATHS = [
  '/chat/completions',
  '/v1/chat/completions',
  '/beta/chat/completions',
  '/beta/v1/chat/completions',
]

/**
 * While a whole answer waits for its turn, the backend sends blank lines. Compression would hold
 * them back, and with them the notice that the client has gone; the runtime looks at the one header
 * and the network at the other.
 */
const JSON_HEADERS = {
  'content-type': 'application/json',
  'content-encoding': 'identity',
  'cache-control': 'no-transform',
}

/** A stream that waits gets its status line after this, and from then on a comment so often. */
const HOLD_MS = 5_000
const KEEP_ALIVE_MS = 2_000
const KEEP_ALIVE = new TextEncoder().encode(': keep-alive\n\n')

/** What this isolate keeps between requests. */
interface Isolate {
  readonly deps: AppDeps
  readonly book: LeaseBook
  readonly pools: PoolBook
  readonly headers: { readonly stream: AnswerHeaders; readonly whole: AnswerHeaders }
}

export function chatCompletions(deps: AppDeps): Hono<AppEnv> {
  const routes = new Hono<AppEnv>()
  const isolate = {
    deps,
    book: new LeaseBook(deps.randomBytes),
    pools: new PoolBook(),
    headers: { stream: new AnswerHeaders(STREAM_HEADERS), whole: new AnswerHeaders(JSON_HEADERS) },
  }
  for (const path of PATHS) {
    routes.post(path, requireScope('chat'), (c) => complete(c, isolate))
    routes.all(path, refuseMethod('POST'))
  }
  return routes
}

async function complete(c: AppContext, isolate: Isolate): Promise<Response> {
  const { deps } = isolate
  const settings = c.get('settings')
  const trace = c.get('trace')
  const body = await readBody(c.req.raw, settings.bodyBytesMax)
  const json = parseJsonBytes(body)
  const request = parseChatRequest(json)
  const pool = choosePool(settings.pools, request.model, deps.random)
  trace.model = request.model
  requireModel(c, request.model)
  const resumableSeconds = request.stream === true ? resumableSecondsOf(c) : null

  const streamed = request.stream === true
  // A stream that was opened early may lose its reader without the request being aborted.
  const gone = new AbortController()
  const client = c.req.raw.signal
  const job: Job = {
    pool,
    body,
    streamed,
    model: request.model,
    band: wantsFlex(json) ? 'flex' : 'normal',
    resumableSeconds,
    signal: streamed ? AbortSignal.any([client, gone.signal]) : client,
  }
  const asked = {
    ...sizeOf(request, body.byteLength),
    model: request.model,
    maxCostPico: maxCostOf(c),
    maxWaitMs: maxWaitOf(c, streamed),
    signal: job.signal,
  }
  const dispatched = admitAndDispatch(c, asked, job, isolate)
  const first = streamed ? await within(dispatched, HOLD_MS) : await dispatched
  if (first === null) return answerWaiting(c, { job, isolate, dispatched, gone })
  if (first.kind === 'failed') throw first.error
  return passOn(c, first.upstream, job, isolate)
}

/** First leave of the caller's own limits, then a turn at the pool: it may have to wait for either. */
async function admitAndDispatch(
  c: AppContext,
  asked: Asked,
  job: Job,
  isolate: Isolate,
): Promise<Dispatched> {
  const { deps, book } = isolate
  const startedAtMs = deps.now()
  try {
    const admitted = await admit(c, asked, book, deps)
    c.get('trace').addPhase('admit', Math.max(0, deps.now() - startedAtMs - admitted.waitedMs))
    return await dispatch(c, { ...job, admitted }, isolate)
  } catch (error) {
    if (!(error instanceof ApiError)) throw error
    return { kind: 'failed', error }
  }
}

/** For how long the stream is to go on without its client; null: not at all. */
function resumableSecondsOf(c: AppContext): number | null {
  const text = c.req.header(RESUMABLE_HEADER)
  if (text === undefined) return null
  const seconds = /^\d{1,3}$/.test(text) ? Number(text) : 0
  if (seconds >= 1 && seconds <= RESUMABLE_SECONDS_MAX) return seconds
  const range = `from 1 to ${RESUMABLE_SECONDS_MAX}`
  const message = `'${RESUMABLE_HEADER}' must be a whole number of seconds ${range}.`
  throw new ApiError('invalid_request_error', message, { param: RESUMABLE_HEADER })
}

export function requireModel(c: AppContext, model: string): void {
  if (mayUseModel(c.get('caller').access, model)) return
  throw new ApiError('permission_denied', 'This key may not use this model.', { param: 'model' })
}

/** One of the pools that serve `model`, each as likely. */
export function choosePool(pools: readonly Pool[], model: string, random: () => number): Pool {
  const serving = pools.filter((pool) => pool.models.includes(model))
  const pool = serving[Math.floor(random() * serving.length)]
  if (pool === undefined) {
    const known = [...new Set(pools.flatMap((entry) => entry.models))].join(', ')
    const message = `Model Not Exist: this service has ${known}.`
    throw new ApiError('model_not_found', message, { param: 'model' })
  }
  return pool
}

/** Whether the caller has asked to stand behind those who are in a hurry. */
function wantsFlex(json: unknown): boolean {
  return (
    typeof json === 'object' &&
    json !== null &&
    'service_tier' in json &&
    json.service_tier === 'flex'
  )
}

/** What the promise comes to, or null when it takes longer. */
async function within<T>(promise: Promise<T>, ms: number): Promise<T | null> {
  const late = Promise.withResolvers<null>()
  const timer = setTimeout(() => late.resolve(null), ms)
  try {
    return await Promise.race([promise, late.promise])
  } finally {
    clearTimeout(timer)
  }
}

interface Waiting {
  readonly job: Job
  readonly isolate: Isolate
  readonly dispatched: Promise<Dispatched>
  /** Told when nobody reads any more. */
  readonly gone: AbortController
}

/** Opens the stream before there is anything to say, and keeps it open until there is. */
function answerWaiting(c: AppContext, waiting: Waiting): Response {
  const { readable, writable } = new IdentityTransformStream()
  c.get('trace').streaming = true
  c.executionCtx.waitUntil(
    keepWaiting(c, waiting, writable).then((end) =>
      concludeBody(c, waiting.job, waiting.isolate, end),
    ),
  )
  return answer(c, readable, waiting.isolate.headers.stream)
}

async function keepWaiting(
  c: AppContext,
  { job, isolate, dispatched, gone }: Waiting,
  writable: WritableStream<Uint8Array>,
): Promise<BodyEnd> {
  const writer = writable.getWriter()
  try {
    for (;;) {
      await writer.write(KEEP_ALIVE)
      const outcome = await within(dispatched, KEEP_ALIVE_MS)
      if (outcome === null) continue
      if (outcome.kind === 'failed') {
        await writer.write(new TextEncoder().encode(errorEvent(outcome.error)))
        await writer.close()
        return 'broken'
      }
      writer.releaseLock()
      return await pump(c, { upstream: outcome.upstream, writable, job, isolate })
    }
  } catch {
    // Nobody reads: whatever was on its way for them is given up.
    gone.abort()
    const outcome = await dispatched
    if (outcome.kind === 'answer') await outcome.upstream.body?.cancel()
    return 'abandoned'
  }
}

/** The backend's answer to the client, byte for byte, under our own headers. */
async function passOn(
  c: AppContext,
  upstream: Response,
  job: Job,
  isolate: Isolate,
): Promise<Response> {
  const trace = c.get('trace')
  if (!isAnswer(upstream, job)) {
    await upstream.body?.cancel()
    await giveTurnBack(c, job.pool, trace.requestId, isolate)
    logFailure(isolate.deps, 'backend_answer_invalid', null, {
      request_id: trace.requestId,
      status: 200,
    })
    throw new ApiError('internal_server_error', 'The backend could not answer this request.')
  }
  const { stream, whole } = isolate.headers
  if (!job.streamed && upstream.headers.has('content-length')) {
    // An answer with a length has been made and is on its way: the runtime passes it on by itself.
    endTurn(c, job.pool, trace.requestId, isolate)
    return answer(c, upstream.body, whole)
  }
  const { readable, writable } = new IdentityTransformStream()
  trace.streaming = true
  c.executionCtx.waitUntil(
    pump(c, { upstream, writable, job, isolate }).then((end) => concludeBody(c, job, isolate, end)),
  )
  return answer(c, readable, job.streamed ? stream : whole)
}

function answer(c: AppContext, body: ReadableStream | null, headers: AnswerHeaders): Response {
  return new Response(body, { headers: headers.with(c.get('trace').limits) })
}

function isAnswer(upstream: Response, { streamed }: Job): boolean {
  const wanted = streamed ? 'text/event-stream' : 'application/json'
  const got = upstream.headers.get('content-type') ?? ''
  return upstream.body !== null && got.toLowerCase().startsWith(wanted)
}

interface Pumping {
  readonly upstream: Response
  readonly writable: WritableStream<Uint8Array>
  readonly job: Job
  readonly isolate: Isolate
}

function pump(c: AppContext, { upstream, writable, job, isolate }: Pumping): Promise<BodyEnd> {
  const body = pumpBody({
    body: upstream.body ?? new ReadableStream(),
    writable,
    farewell: job.streamed ? BROKEN_STREAM : null,
    signal: c.req.raw.signal,
  })
  return keepPlace(c, c.get('trace').requestId, isolate.deps, body)
}

function concludeBody(c: AppContext, job: Job, isolate: Isolate, bodyEnd: BodyEnd): void {
  const { deps } = isolate
  const trace = c.get('trace')
  const end = { method: c.req.method, route: routePath(c), status: 200 }
  const nowMs = deps.now()
  deps.log(trace.toLine({ ...end, nowMs, bodyEnd }))
  // Without its client it goes on for a moment, or until it is taken up again: its turn lapses.
  if (bodyEnd === 'abandoned') return
  endTurn(c, job.pool, trace.requestId, isolate)
}
