import { Hono } from 'hono'
import type { AppContext, AppEnv } from '../context.ts'
import { refuseMethod } from '../failures.ts'

/** The addresses a client may be configured with; some agents probe them before their first call. */
const BASE_PATHS = ['/', '/v1', '/v1/', '/beta', '/beta/', '/beta/v1', '/beta/v1/', '/health']

/** Unauthenticated and without I/O: says that the edge answers and is configured. */
export function health(): Hono<AppEnv> {
  const routes = new Hono<AppEnv>()
  for (const path of BASE_PATHS) {
    routes.get(path, (c: AppContext) => c.json({ status: 'ok' }))
    routes.all(path, refuseMethod('GET, HEAD'))
  }
  return routes
}
