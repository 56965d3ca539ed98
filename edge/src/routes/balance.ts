import { Hono } from 'hono'
import { ApiError } from '#protocol/errors.ts'
import type { AppDeps, AppEnv } from '../context.ts'
import { reachObject, refuseMethod } from '../failures.ts'
import { requireScope } from '../middleware/authenticate.ts'
import { tenantObject } from '../objects/stubs.ts'
import { formatCents } from '../usd.ts'

/** DeepSeek's balance, for tools that show one; the whole truth is at `/v1/limits`. */
export function balance(deps: AppDeps): Hono<AppEnv> {
  const routes = new Hono<AppEnv>()
  for (const path of ['/user/balance', '/v1/user/balance']) {
    routes.get(path, requireScope('limits'), async (c) => {
      const tenant = tenantObject(c.env, c.get('caller').tenantId)
      const account = await reachObject(tenant.account(), deps)
      if (account === null) throw new ApiError('not_found', 'There is no such tenant.')
      const total = formatCents(account.balancePico)
      const info = {
        currency: 'USD',
        total_balance: total,
        // Nobody is given money here that could expire: all of it was paid in.
        granted_balance: '0.00',
        topped_up_balance: total,
      }
      return c.json({ is_available: account.availablePico > 0n, balance_infos: [info] })
    })
    routes.all(path, refuseMethod('GET, HEAD'))
  }
  return routes
}
