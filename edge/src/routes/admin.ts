import { Hono } from 'hono'
import { z } from 'zod'
import type { AppContext, AppDeps, AppEnv } from '../context.ts'
import { answerNotFound, reachObject, refuseMethod } from '../failures.ts'
import { newTenantId } from '../keys/api-key.ts'
import { requireAdminToken } from '../middleware/admin-token.ts'
import { directoryObject, tenantObject } from '../objects/stubs.ts'
import { addAccountRoutes } from './admin/accounts.ts'
import { nameField, parseLimit, readJson, toUnixSeconds } from './admin/door.ts'
import { addKeyRoutes } from './admin/keys.ts'
import { addTermsRoutes } from './admin/terms.ts'

const tenantSchema = z.object({ name: nameField })

/** What an operator does: make tenants and keys, revoke keys, read usage. */
export function admin(deps: AppDeps): Hono<AppEnv> {
  const routes = new Hono<AppEnv>()
  routes.use('*', requireAdminToken())

  routes.post('/tenants', async (c) => c.json(await createTenant(c, deps), 201))
  routes.get('/tenants', async (c) => c.json(await listTenants(c, deps)))
  routes.all('/tenants', refuseMethod('GET, POST'))

  addKeyRoutes(routes, deps)
  addTermsRoutes(routes, deps)
  addAccountRoutes(routes, deps)

  routes.all('*', answerNotFound)
  return routes
}

/**
 * The tenant's own object first, the directory second: a crash in between leaves a tenant that
 * nobody was told of and that has no keys, where the other order would list one that is not there.
 */
async function createTenant(c: AppContext, deps: AppDeps) {
  const { name } = await readJson(c.req.raw, tenantSchema)
  const tenantId = newTenantId(deps.randomBytes)
  const createdAtMs = deps.now()
  const creating = tenantObject(c.env, tenantId).createTenant({ tenantId, name, createdAtMs })
  if ((await reachObject(creating, deps)) === 'exists') throw new Error('tenant id drawn twice')
  await reachObject(directoryObject(c.env).add({ tenantId, name, createdAtMs }), deps)
  return { tenant_id: tenantId, name, created_at: toUnixSeconds(createdAtMs) }
}

async function listTenants(c: AppContext, deps: AppDeps) {
  const after = c.req.query('after') ?? ''
  const limit = parseLimit(c.req.query('limit'))
  const page = await reachObject(directoryObject(c.env).list(after, limit), deps)
  const data = page.tenants.map(({ tenantId, name, createdAtMs }) => ({
    tenant_id: tenantId,
    name,
    created_at: toUnixSeconds(createdAtMs),
  }))
  return { object: 'list', data, has_more: page.hasMore }
}
