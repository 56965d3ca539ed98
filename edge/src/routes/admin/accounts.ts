import type { Hono } from 'hono'
import { ApiError } from '#protocol/errors.ts'
import { z } from 'zod'
import type { AppContext, AppDeps, AppEnv } from '../../context.ts'
import { reachObject, refuseMethod } from '../../failures.ts'
import { directoryObject, poolObject, tenantObject } from '../../objects/stubs.ts'
import type { LedgerPage } from '../../objects/tenant/tenant.ts'
import { formatUsd } from '../../usd.ts'
import { parseUsageQuery, usageCsv, viewSums, viewUsage } from '../../usage-view.ts'
import { noSuchTenant, parseLimit, readJson, tenantParam } from './door.ts'

/** Each tenant of a page is a call. */
const TENANTS_MAX = 100
const RECONCILE_AGE_SECONDS = 120

const reconcileSchema = z.object({
  older_than_seconds: z.int().min(0).default(RECONCILE_AGE_SECONDS),
})

/** Usage and ledgers as the operator sees them, over one tenant and over all; and the pools. */
export function addAccountRoutes(routes: Hono<AppEnv>, deps: AppDeps): void {
  routes.get('/usage', async (c) => c.json(await usageOfTenants(c, deps)))
  routes.all('/usage', refuseMethod('GET'))
  routes.get('/tenants/:tenant/usage', (c) => usageOfTenant(c, deps))
  routes.all('/tenants/:tenant/usage', refuseMethod('GET'))
  routes.get('/tenants/:tenant/ledger', async (c) => c.json(await ledger(c, deps)))
  routes.all('/tenants/:tenant/ledger', refuseMethod('GET'))
  routes.post('/tenants/:tenant/reconcile', async (c) => c.json(await reconcile(c, deps)))
  routes.all('/tenants/:tenant/reconcile', refuseMethod('POST'))
  routes.get('/pools/:pool', async (c) => c.json(await pool(c, deps)))
  routes.all('/pools/:pool', refuseMethod('GET'))
}

async function usageOfTenant(c: AppContext, deps: AppDeps): Promise<Response> {
  const params = new URL(c.req.url).searchParams
  const query = parseUsageQuery(params, deps.now())
  const report = await reachObject(tenantObject(c.env, tenantParam(c)).usage(query), deps)
  if (report === null) throw noSuchTenant()
  if (params.get('format') === 'csv') return csvAnswer(usageCsv(query, report))
  return c.json({ ...viewUsage(query, report), parked_records: report.parkedRecords })
}

export function csvAnswer(text: string): Response {
  return new Response(text, { headers: { 'content-type': 'text/csv; charset=utf-8' } })
}

/** A page of tenants with the sums of each. */
async function usageOfTenants(c: AppContext, deps: AppDeps) {
  const params = new URL(c.req.url).searchParams
  const limit = Math.min(parseLimit(params.get('limit') ?? undefined), TENANTS_MAX)
  const after = params.get('after') ?? ''
  for (const own of ['limit', 'after', 'group_by']) params.delete(own)
  const query = { ...parseUsageQuery(params, deps.now()), groupBy: [] }
  const page = await reachObject(directoryObject(c.env).list(after, limit), deps)
  const data = await Promise.all(
    page.tenants.map(async ({ tenantId, name }) => {
      const report = await reachObject(tenantObject(c.env, tenantId).usage(query), deps)
      const sums = report === null ? null : viewSums(report.totals)
      return { tenant_id: tenantId, name, ...sums }
    }),
  )
  return { object: 'list', from: query.from, to: query.to, data, has_more: page.hasMore }
}

async function ledger(c: AppContext, deps: AppDeps) {
  const limit = parseLimit(c.req.query('limit'))
  const afterText = c.req.query('after') ?? '0'
  const after = /^\d{1,15}$/.test(afterText) ? Number(afterText) : -1
  if (after < 0) {
    throw new ApiError('invalid_parameter', "'after' must be a posting's 'seq'.", {
      param: 'after',
    })
  }
  const page = await reachObject(tenantObject(c.env, tenantParam(c)).ledger(after, limit), deps)
  if (page === null) throw noSuchTenant()
  return viewLedger(page)
}

function viewLedger({ postings, balances, hasMore }: LedgerPage) {
  return {
    object: 'ledger',
    balances: Object.fromEntries(
      Object.entries(balances).map(([account, pico]) => [account, formatUsd(pico)]),
    ),
    data: postings.map(({ seq, id, kind, atMs, from, to, amountPico, usage }) => ({
      seq,
      id,
      kind,
      at_ms: atMs,
      from,
      to,
      amount_usd: formatUsd(amountPico),
      usage:
        usage === null
          ? null
          : {
              project: usage.projectId,
              key_id: usage.keyId,
              model: usage.model,
              prompt_tokens: usage.promptTokens,
              cached_tokens: usage.cachedTokens,
              completion_tokens: usage.outputTokens,
              admitted_at_ms: usage.admittedAtMs,
              price_version: usage.priceVersion,
            },
    })),
    has_more: hasMore,
  }
}

/** Asks the backends now about requests whose records are missed, instead of when it is time. */
async function reconcile(c: AppContext, deps: AppDeps) {
  const { older_than_seconds: ageSeconds } = await readJson(c.req.raw, reconcileSchema)
  const tenant = tenantObject(c.env, tenantParam(c))
  const open = await reachObject(tenant.reconcile(ageSeconds * 1000, deps.now()), deps)
  if (open === null) throw noSuchTenant()
  return { object: 'reconciliation', open_requests: open }
}

async function pool(c: AppContext, deps: AppDeps) {
  const id = c.req.param('pool') ?? ''
  if (!c.get('settings').pools.some((entry) => entry.id === id)) {
    throw new ApiError('not_found', 'There is no such pool.')
  }
  const view = await reachObject(poolObject(c.env, id).view(), deps)
  return {
    object: 'pool',
    id,
    managed: view.managed,
    waiting: view.waiters,
    waiting_tokens: view.waitingTokens,
    backends: view.backends.map((report) => ({
      id: report.backendId,
      at_ms: report.atMs,
      free_cache_tokens: report.freeCacheTokens,
      cache_tokens: report.cacheTokensMax,
      running: report.running,
      waiting: report.waiting,
      prefill_tokens_per_second: report.prefillTokensPerSecond,
      decode_tokens_per_second: report.decodeTokensPerSecond,
      draining: report.draining,
      models: report.models,
    })),
  }
}
