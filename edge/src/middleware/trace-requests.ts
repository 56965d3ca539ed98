import type { MiddlewareHandler } from 'hono'
import { routePath } from 'hono/route'
import { REQUEST_ID_HEADER } from '#protocol/headers.ts'
import type { AppDeps, AppEnv } from '../context.ts'
import { rateLimitHeaders } from '../rate-limit-headers.ts'
import type { LimitView } from '../rate-limit-headers.ts'
import { newRequestId } from '../request-id.ts'
import { RequestTrace } from '../request-trace.ts'

/**
 * Gives every request its id (never the client's: ids key the usage records), every response
 * `x-request-id` and `server-timing`, and the log one line.
 */
export function traceRequests(deps: AppDeps): MiddlewareHandler<AppEnv> {
  return async function traceRequest(c, next) {
    const startedAtMs = deps.now()
    const requestId = newRequestId(startedAtMs, deps.randomBytes)
    const trace = new RequestTrace(requestId, startedAtMs)
    c.set('trace', trace)
    await next()
    const nowMs = deps.now()
    c.res.headers.set(REQUEST_ID_HEADER, requestId)
    c.res.headers.set('server-timing', trace.serverTiming(nowMs))
    // An answer was made with them.
    if (c.error !== undefined) showLimits(c.res.headers, trace.limits)
    if (trace.streaming) return
    const end = { method: c.req.method, route: routePath(c), status: c.res.status, nowMs }
    const clientGone = c.req.raw.signal.aborted
    deps.log(trace.toLine({ ...end, ...(clientGone ? { bodyEnd: 'abandoned' } : {}) }))
  }
}

function showLimits(headers: Headers, limits: readonly LimitView[]): void {
  for (const [name, value] of Object.entries(rateLimitHeaders(limits))) headers.set(name, value)
}
