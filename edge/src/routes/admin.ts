import { Hono } from 'hono'
import { ApiError } from '#protocol/errors.ts'
import { z } from 'zod'
import type { AppContext, AppDeps, AppEnv } from '../context.ts'
import { answerNotFound, reachObject, refuseMethod } from '../failures.ts'
import {
  formatApiKey,
  hashSecret,
  isTenantId,
  lastFour,
  newApiKey,
  newTenantId,
} from '../keys/api-key.ts'
import { requireAdminToken } from '../middleware/admin-token.ts'
import { directoryObject, tenantObject } from '../objects/stubs.ts'
import { KEYS_MAX } from '../objects/tenant/tenant.ts'
import type { KeySummary } from '../objects/tenant/tenant.ts'
import { parseJsonBytes, readBody } from '../request-body.ts'
import { parseUsageQuery, viewUsage } from '../usage-view.ts'

const BODY_BYTES_MAX = 64 * 1024
const PAGE_DEFAULT = 100
const PAGE_MAX = 1000

const nameSchema = z.object({ name: z.string().trim().min(1).max(200) })

/** What an operator does: make tenants and keys, revoke keys, read usage. */
export function admin(deps: AppDeps): Hono<AppEnv> {
  const routes = new Hono<AppEnv>()
  routes.use('*', requireAdminToken())

  routes.post('/tenants', async (c) => c.json(await createTenant(c, deps), 201))
  routes.get('/tenants', async (c) => c.json(await listTenants(c, deps)))
  routes.all('/tenants', refuseMethod('GET, POST'))

  routes.post('/tenants/:tenant/keys', async (c) => c.json(await createKey(c, deps), 201))
  routes.get('/tenants/:tenant/keys', async (c) => c.json(await listKeys(c, deps)))
  routes.all('/tenants/:tenant/keys', refuseMethod('GET, POST'))

  routes.delete('/tenants/:tenant/keys/:key', async (c) => c.json(await revokeKey(c, deps)))
  routes.all('/tenants/:tenant/keys/:key', refuseMethod('DELETE'))

  routes.get('/tenants/:tenant/usage', async (c) => c.json(await tenantUsage(c, deps)))
  routes.all('/tenants/:tenant/usage', refuseMethod('GET'))

  routes.all('*', answerNotFound)
  return routes
}

/**
 * The tenant's own object first, the directory second: a crash in between leaves a tenant that
 * nobody was told of and that has no keys, where the other order would list one that is not there.
 */
async function createTenant(c: AppContext, deps: AppDeps) {
  const name = await readName(c.req.raw)
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

/** The only answer that ever holds the whole key. */
async function createKey(c: AppContext, deps: AppDeps) {
  const name = await readName(c.req.raw)
  const tenantId = tenantParam(c)
  const key = newApiKey(tenantId, deps.randomBytes)
  const text = formatApiKey(key)
  const createdAtMs = deps.now()
  const status = await reachObject(
    tenantObject(c.env, tenantId).createKey({
      keyId: key.keyId,
      name,
      secretHash: await hashSecret(key.secret),
      lastFour: lastFour(text),
      createdAtMs,
    }),
    deps,
  )
  if (status === 'tenant_unknown') throw noSuchTenant()
  if (status === 'too_many_keys') {
    throw new ApiError('invalid_parameter', `A tenant has at most ${KEYS_MAX} keys.`)
  }
  if (status === 'exists') throw new Error('key id drawn twice')
  return { key: text, key_id: key.keyId, name, created_at: toUnixSeconds(createdAtMs) }
}

async function listKeys(c: AppContext, deps: AppDeps) {
  const keys = await reachObject(tenantObject(c.env, tenantParam(c)).listKeys(), deps)
  if (keys === null) throw noSuchTenant()
  return { object: 'list', data: keys.map(viewKey) }
}

/** Revoking twice is no error and keeps the first time. */
async function revokeKey(c: AppContext, deps: AppDeps) {
  const keyId = c.req.param('key') ?? ''
  const revoking = tenantObject(c.env, tenantParam(c)).revokeKey(keyId, deps.now())
  const revokedAtMs = await reachObject(revoking, deps)
  if (revokedAtMs === null) throw new ApiError('not_found', 'There is no such key.')
  return { key_id: keyId, revoked_at: toUnixSeconds(revokedAtMs) }
}

async function tenantUsage(c: AppContext, deps: AppDeps) {
  const query = parseUsageQuery(new URL(c.req.url).searchParams, deps.now())
  const report = await reachObject(tenantObject(c.env, tenantParam(c)).usage(query), deps)
  if (report === null) throw noSuchTenant()
  return { ...viewUsage(query, report), parked_records: report.parkedRecords }
}

function tenantParam(c: AppContext): string {
  const tenantId = c.req.param('tenant') ?? ''
  if (!isTenantId(tenantId)) throw noSuchTenant()
  return tenantId
}

function noSuchTenant(): ApiError {
  return new ApiError('not_found', 'There is no such tenant.')
}

async function readName(request: Request): Promise<string> {
  const parsed = nameSchema.safeParse(parseJsonBytes(await readBody(request, BODY_BYTES_MAX)))
  if (parsed.success) return parsed.data.name
  const message = "'name' must be a string of 1 to 200 characters."
  throw new ApiError('invalid_request_error', message, { param: 'name' })
}

function parseLimit(text: string | undefined): number {
  if (text === undefined) return PAGE_DEFAULT
  const limit = /^\d{1,4}$/.test(text) ? Number(text) : 0
  if (limit >= 1 && limit <= PAGE_MAX) return limit
  const message = `'limit' must be a whole number from 1 to ${PAGE_MAX}.`
  throw new ApiError('invalid_parameter', message, { param: 'limit' })
}

function viewKey(key: KeySummary) {
  return {
    key_id: key.keyId,
    name: key.name,
    last_four: key.lastFour,
    created_at: toUnixSeconds(key.createdAtMs),
    revoked_at: key.revokedAtMs === null ? null : toUnixSeconds(key.revokedAtMs),
  }
}

function toUnixSeconds(unixMs: number): number {
  return Math.floor(unixMs / 1000)
}
