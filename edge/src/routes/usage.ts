import { Hono } from 'hono'
import { ApiError } from '#protocol/errors.ts'
import type { AppDeps, AppEnv } from '../context.ts'
import { reachObject, refuseMethod } from '../failures.ts'
import { requireScope } from '../middleware/authenticate.ts'
import { tenantObject } from '../objects/stubs.ts'
import { parseUsageQuery, usageCsv, viewUsage } from '../usage-view.ts'
import { csvAnswer } from './admin/accounts.ts'

/** What the key's own tenant was billed, all its keys included. */
export function usage(deps: AppDeps): Hono<AppEnv> {
  const routes = new Hono<AppEnv>()
  for (const path of ['/usage', '/v1/usage']) {
    routes.get(path, requireScope('usage'), async (c) => {
      const params = new URL(c.req.url).searchParams
      const query = parseUsageQuery(params, deps.now())
      const tenant = tenantObject(c.env, c.get('caller').tenantId)
      const report = await reachObject(tenant.usage(query), deps)
      if (report === null) throw new ApiError('not_found', 'There is no such tenant.')
      return params.get('format') === 'csv'
        ? csvAnswer(usageCsv(query, report))
        : c.json(viewUsage(query, report))
    })
    routes.all(path, refuseMethod('GET, HEAD'))
  }
  return routes
}
