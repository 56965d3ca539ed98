import { Hono } from 'hono'
import { routePath } from 'hono/route'
import { parseChatRequest } from '#protocol/chat-completions.ts'
import { ApiError, errorEvent } from '#protocol/errors.ts'
import { readWhole } from '../bytes.ts'
import type { AppContext, AppDeps, AppEnv } from '../context.ts'
import type { Pool } from '../env.ts'
import { logFailure, refuseMethod } from '../failures.ts'
import { mayUseModel } from '../keys/access.ts'
import { requireScope } from '../middleware/authenticate.ts'
import { parseJsonBytes, readBody } from '../request-body.ts'
import { callBackend } from '../upstream/backend.ts'
import { translateRefusal } from '../upstream/backend-error.ts'
import { pumpBody } from '../upstream/pump.ts'

const PATHS = [
  '/chat/completions',
  '/v1/chat/completions',
  '/beta/chat/completions',
  '/beta/v1/chat/completions',
]

const REFUSAL_BYTES_MAX = 64 * 1024

const STREAM_HEADERS = {
  'content-type': 'text/event-stream; charset=utf-8',
  'cache-control': 'no-cache',
  'x-accel-buffering': 'no',
}

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

/**
 * Written where a backend's stream broke off. The blank line first ends whatever event was cut in
 * the middle (between events it means nothing), so that this one stands by itself.
 */
const BROKEN_STREAM = `\n\n${errorEvent(
  new ApiError(
    'server_is_overloaded',
    'The backend stopped before finishing this answer. Try again.',
  ),
)}`

export function chatCompletions(deps: AppDeps): Hono<AppEnv> {
  const routes = new Hono<AppEnv>()
  for (const path of PATHS) {
    routes.post(path, requireScope('chat'), (c) => complete(c, deps))
    routes.all(path, refuseMethod('POST'))
  }
  return routes
}

async function complete(c: AppContext, deps: AppDeps): Promise<Response> {
  const settings = c.get('settings')
  const trace = c.get('trace')
  const body = await readBody(c.req.raw, settings.bodyBytesMax)
  const request = parseChatRequest(parseJsonBytes(body))
  const pool = choosePool(settings.pools, request.model, deps.random)
  trace.model = request.model
  if (!mayUseModel(c.get('caller').access, request.model)) {
    throw new ApiError('permission_denied', 'This key may not use this model.', { param: 'model' })
  }

  const calledAtMs = deps.now()
  const { signal } = c.req.raw
  const call = { pool, requestId: trace.requestId, caller: c.get('caller'), signal, body }
  const upstream = await callBackend({ ...call, path: '/v1/chat/completions' }, settings, deps)
  trace.addPhase('backend', deps.now() - calledAtMs)

  if (upstream.status !== 200) throw await refusalOf(upstream, trace.requestId, deps)
  return passOn(c, upstream, { streamed: request.stream === true, deps })
}

/** One of the pools that serve `model`, each as likely. */
function choosePool(pools: readonly Pool[], model: string, random: () => number): Pool {
  const serving = pools.filter((pool) => pool.models.includes(model))
  const pool = serving[Math.floor(random() * serving.length)]
  if (pool === undefined) {
    const known = [...new Set(pools.flatMap((entry) => entry.models))].join(', ')
    const message = `Model Not Exist: this service has ${known}.`
    throw new ApiError('model_not_found', message, { param: 'model' })
  }
  return pool
}

async function refusalOf(upstream: Response, requestId: string, deps: AppDeps): Promise<ApiError> {
  const bytes = await readWhole(upstream.body, REFUSAL_BYTES_MAX).catch(() => null)
  const text = new TextDecoder().decode(bytes ?? new Uint8Array(0))
  const { status, headers } = upstream
  const error = translateRefusal({ status, headers, text }, deps.random)
  if (error.code === 'internal_server_error') {
    const event = status === 401 ? 'backend_refused_token' : 'backend_answer_invalid'
    logFailure(deps, event, null, { request_id: requestId, status })
  }
  return error
}

interface PassOnOptions {
  readonly streamed: boolean
  readonly deps: AppDeps
}

/** The backend's answer to the client, byte for byte, under our own headers. */
async function passOn(
  c: AppContext,
  upstream: Response,
  { streamed, deps }: PassOnOptions,
): Promise<Response> {
  const trace = c.get('trace')
  const wanted = streamed ? 'text/event-stream' : 'application/json'
  const got = upstream.headers.get('content-type') ?? ''
  if (upstream.body === null || !got.toLowerCase().startsWith(wanted)) {
    await upstream.body?.cancel()
    logFailure(deps, 'backend_answer_invalid', null, { request_id: trace.requestId, status: 200 })
    throw new ApiError('internal_server_error', 'The backend could not answer this request.')
  }
  const { readable, writable } = new IdentityTransformStream()
  const end = { method: c.req.method, route: routePath(c), status: 200 }
  trace.streaming = true
  c.executionCtx.waitUntil(
    pumpBody({
      body: upstream.body,
      writable,
      farewell: streamed ? BROKEN_STREAM : null,
      signal: c.req.raw.signal,
    }).then((bodyEnd) => deps.log(trace.toLine({ ...end, nowMs: deps.now(), bodyEnd }))),
  )
  return new Response(readable, { headers: streamed ? STREAM_HEADERS : JSON_HEADERS })
}
