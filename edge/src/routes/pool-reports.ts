import { Hono } from 'hono'
import { verifyReportToken } from '#protocol/capacity-report.ts'
import { ApiError } from '#protocol/errors.ts'
import type { AppDeps, AppEnv } from '../context.ts'
import { sluicePools } from '../env.ts'
import { reachObject } from '../failures.ts'
import { presentedKey } from '../middleware/authenticate.ts'
import { REPORTER_HEADER } from '../objects/pool/pool.ts'
import { poolObject } from '../objects/stubs.ts'

/** `GET /internal/pools/{pool}/reports`: a backend's WebSocket, passed on to its pool's object. */
export function poolReports(deps: AppDeps): Hono<AppEnv> {
  const routes = new Hono<AppEnv>()
  routes.get('/pools/:pool/reports', async (c) => {
    const pool = sluicePools(c.get('settings').pools).find(({ id }) => id === c.req.param('pool'))
    const token = presentedKey(c.req.raw.headers) ?? ''
    const claims =
      pool === undefined
        ? null
        : await verifyReportToken(token, pool.recordPublicKey, {
            pool: pool.id,
            nowMs: deps.now(),
          })
    if (pool === undefined || claims === null) {
      const message = 'Authentication failed: the report token is not valid.'
      throw new ApiError('invalid_service_token', message)
    }
    if (c.req.header('upgrade')?.toLowerCase() !== 'websocket') {
      throw new ApiError('invalid_request_error', 'This path takes WebSockets.')
    }
    const headers = { upgrade: 'websocket', [REPORTER_HEADER]: JSON.stringify(claims) }
    const asked = poolObject(c.env, pool.id).fetch('https://pool/reports', { headers })
    const { webSocket } = await reachObject(asked, deps)
    // Made anew, since the object's own cannot be given our headers.
    return new Response(null, { status: 101, webSocket })
  })
  return routes
}
