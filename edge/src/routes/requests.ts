import { Hono } from 'hono'
import { routePath } from 'hono/route'
import { ApiError } from '#protocol/errors.ts'
import { LAST_EVENT_ID_HEADER } from '#protocol/headers.ts'
import { requestStatusSchema } from '#protocol/request-status.ts'
import type { RequestStatus } from '#protocol/request-status.ts'
import { readWhole } from '../bytes.ts'
import type { AppContext, AppDeps, AppEnv } from '../context.ts'
import { sluicePools } from '../env.ts'
import type { Pool } from '../env.ts'
import { reachObject, refuseMethod } from '../failures.ts'
import { keepPlace } from '../flow/heartbeat.ts'
import { requireScope } from '../middleware/authenticate.ts'
import { tenantObject } from '../objects/stubs.ts'
import { REQUEST_ID } from '../request-id.ts'
import { callBackend } from '../upstream/backend.ts'
import { refusalOf } from '../upstream/backend-error.ts'
import { BROKEN_STREAM, pumpBody, STREAM_HEADERS } from '../upstream/pump.ts'
import { viewLimitState } from './limits.ts'

const STATUS_BYTES_MAX = 64 * 1024

/** One request of the key's own tenant: how it is doing, why it was let in, its stream again. */
export function requests(deps: AppDeps): Hono<AppEnv> {
  const routes = new Hono<AppEnv>()
  for (const base of ['/requests/:id', '/v1/requests/:id']) {
    routes.get(base, requireScope('requests'), async (c) => c.json(await showStatus(c, deps)))
    routes.all(base, refuseMethod('GET, HEAD'))
    routes.get(`${base}/admission`, requireScope('requests'), async (c) =>
      c.json(await showAdmission(c, deps)),
    )
    routes.all(`${base}/admission`, refuseMethod('GET, HEAD'))
    routes.get(`${base}/events`, requireScope('chat'), (c) => resumeEvents(c, deps))
    routes.all(`${base}/events`, refuseMethod('GET'))
  }
  return routes
}

async function showStatus(c: AppContext, deps: AppDeps): Promise<RequestStatus> {
  const id = idParam(c)
  for await (const { response } of askInTurn(c, `/v1/requests/${id}`, deps)) {
    const status = await readStatus(response)
    if (status !== null) return status
  }
  throw noSuchRequest()
}

interface Answer {
  readonly pool: Pool
  readonly response: Response
}

/**
 * What each backend says, in turn: one knows a request only if it has run it, and only for the
 * tenant that sent it. Should one not answer and no other know, that is a 503: it might have known.
 */
async function* askInTurn(c: AppContext, path: string, deps: AppDeps): AsyncGenerator<Answer> {
  let unreachable: unknown = null
  const asked = {
    path,
    requestId: c.get('trace').requestId,
    caller: c.get('caller'),
    signal: c.req.raw.signal,
    body: null,
  }
  const settings = c.get('settings')
  for (const pool of sluicePools(settings.pools)) {
    for (const url of pool.backendUrls) {
      try {
        yield { pool, response: await callBackend({ ...asked, pool, url }, settings, deps) }
      } catch (error) {
        unreachable = error
      }
    }
  }
  if (unreachable !== null) throw unreachable
}

async function readStatus(response: Response): Promise<RequestStatus | null> {
  const bytes = await readWhole(response.body, STATUS_BYTES_MAX)
  if (response.status !== 200 || bytes === null) return null
  const parsed = requestStatusSchema.safeParse(JSON.parse(new TextDecoder().decode(bytes)))
  return parsed.success ? parsed.data : null
}

/** Goes on with a resumable stream behind the last event its client has seen. */
async function resumeEvents(c: AppContext, deps: AppDeps): Promise<Response> {
  // Its answer would be a stream that nobody reads.
  if (c.req.method === 'HEAD') return refuseMethod('GET')()
  const id = idParam(c)
  const after = c.req.query('after') ?? c.req.header(LAST_EVENT_ID_HEADER) ?? '0'
  const path = `/v1/requests/${id}/events?after=${encodeURIComponent(after)}`
  for await (const answer of askInTurn(c, path, deps)) {
    if (answer.response.status === 404) await answer.response.body?.cancel()
    else return await passEvents(c, id, answer, deps)
  }
  throw noSuchRequest()
}

async function passEvents(
  c: AppContext,
  id: string,
  { pool, response: upstream }: Answer,
  deps: AppDeps,
): Promise<Response> {
  const trace = c.get('trace')
  if (upstream.status !== 200 || upstream.body === null) {
    throw await refusalOf(upstream, { requestId: trace.requestId, pool }, deps)
  }
  const { readable, writable } = new IdentityTransformStream()
  trace.streaming = true
  const { signal } = c.req.raw
  const body = pumpBody({ body: upstream.body, writable, farewell: BROKEN_STREAM, signal })
  c.executionCtx.waitUntil(
    keepPlace(c, id, deps, body).then((bodyEnd) => {
      const end = { method: c.req.method, route: routePath(c), status: 200, bodyEnd }
      deps.log(trace.toLine({ ...end, nowMs: deps.now() }))
    }),
  )
  return new Response(readable, { headers: STREAM_HEADERS })
}

async function showAdmission(c: AppContext, deps: AppDeps) {
  const id = idParam(c)
  const tenant = tenantObject(c.env, c.get('caller').tenantId)
  const decision = await reachObject(tenant.decision(id), deps)
  if (decision === null) throw noSuchRequest()
  return {
    object: 'request.admission',
    id,
    decided_at_ms: decision.atMs,
    model: decision.model,
    outcome: decision.outcome,
    reason: decision.reason,
    binding: decision.binding === null ? null : viewLimitState(decision.binding),
    retry_after_ms: decision.retryAfterMs,
    waited:
      decision.waited === null
        ? null
        : {
            ms: decision.waited.ms,
            binding:
              decision.waited.binding === null ? null : viewLimitState(decision.waited.binding),
          },
    limits: decision.limits.map(viewLimitState),
  }
}

function idParam(c: AppContext): string {
  const id = c.req.param('id') ?? ''
  if (!REQUEST_ID.test(id)) throw noSuchRequest()
  return id
}

function noSuchRequest(): ApiError {
  return new ApiError('not_found', 'There is no such request.', { param: 'id' })
}
