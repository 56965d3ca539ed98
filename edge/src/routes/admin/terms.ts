import type { Hono } from 'hono'
import { ApiError } from '#protocol/errors.ts'
import { z } from 'zod'
import { RATE_MEASURES } from '../../admission/cost.ts'
import type { Limit } from '../../admission/limits.ts'
import type { TokenPrices } from '../../admission/prices.ts'
import type { AppContext, AppDeps, AppEnv } from '../../context.ts'
import { reachObject, refuseMethod } from '../../failures.ts'
import { tenantObject } from '../../objects/stubs.ts'
import { makeLimit } from '../../objects/tenant/terms.ts'
import type { Terms } from '../../objects/tenant/terms.ts'
import { formatUsd, parseUsd } from '../../usd.ts'
import { noSuchTenant, readJson, tenantParam, toUnixSeconds } from './door.ts'

const LIMITS_MAX = 256
const PRICE_VERSIONS_MAX = 64
const WAIT_MS_MAX = 120_000
/** Dollars a million tokens, as pico-dollars a token, are whole to the sixth decimal. */
const TOKENS_PRICED = 1_000_000n

const usdField = z
  .string()
  .transform((text) => parseUsd(text))
  .pipe(z.bigint('must be dollars as a decimal string, "12.50", at most a million'))

const priceField = usdField
  .refine((pico) => pico % TOKENS_PRICED === 0n, 'has more than 6 decimals')
  .transform((pico) => Number(pico / TOKENS_PRICED))

const limitScope = {
  model: z.string().min(1).max(256).optional(),
  project: z.string().min(1).max(64).optional(),
  key: z.string().min(1).max(64).optional(),
}

const limitSchema = z.discriminatedUnion('dimension', [
  z.object({
    dimension: z.enum(RATE_MEASURES),
    per_minute: z.int().min(1).max(1_000_000_000),
    burst_ms: z.int().min(1_000).max(60_000).optional(),
    ...limitScope,
  }),
  z.object({
    dimension: z.literal('concurrency'),
    max: z.int().min(0).max(1_000_000),
    ...limitScope,
  }),
])

const limitsSchema = z.object({
  limits: z.array(limitSchema).max(LIMITS_MAX),
  /** How long a request may wait for room under them; left as it is without it. */
  max_wait_ms: z.int().min(0).max(WAIT_MS_MAX).optional(),
})

const billingSchema = z.discriminatedUnion('mode', [
  z.object({ mode: z.literal('prepaid'), weight: z.int().min(1).max(1000).optional() }),
  z.object({
    mode: z.literal('postpaid'),
    credit_usd: usdField,
    weight: z.int().min(1).max(1000).optional(),
  }),
])

const topUpSchema = z.object({ id: z.string().min(1).max(200), amount_usd: usdField })

const priceSchema = z.object({
  version: z.string().min(1).max(64),
  /** Unix seconds; not before now, since what was admitted keeps its price. */
  from: z.int().min(0),
  models: z.record(
    z.string().min(1).max(256),
    z.object({ cache_hit_usd: priceField, cache_miss_usd: priceField, output_usd: priceField }),
  ),
})

/** What the operator agrees with a tenant: limits, how it pays, its own prices, what it has paid. */
export function addTermsRoutes(routes: Hono<AppEnv>, deps: AppDeps): void {
  const tenant = '/tenants/:tenant'
  routes.get(`${tenant}/limits`, async (c) => c.json(viewLimits(await readTerms(c, deps))))
  routes.put(`${tenant}/limits`, async (c) => c.json(await putLimits(c, deps)))
  routes.all(`${tenant}/limits`, refuseMethod('GET, PUT'))
  routes.get(`${tenant}/billing`, async (c) => c.json(await viewBilling(c, deps)))
  routes.put(`${tenant}/billing`, async (c) => c.json(await putBilling(c, deps)))
  routes.all(`${tenant}/billing`, refuseMethod('GET, PUT'))
  routes.get(`${tenant}/prices`, async (c) => c.json(viewPrices(await readTerms(c, deps))))
  routes.post(`${tenant}/prices`, async (c) => c.json(await addPrice(c, deps), 201))
  routes.all(`${tenant}/prices`, refuseMethod('GET, POST'))
  routes.post(`${tenant}/topups`, async (c) => c.json(await topUp(c, deps), 201))
  routes.all(`${tenant}/topups`, refuseMethod('POST'))
}

async function readTerms(c: AppContext, deps: AppDeps): Promise<Terms> {
  const terms = await reachObject(tenantObject(c.env, tenantParam(c)).terms(), deps)
  if (terms === null) throw noSuchTenant()
  return terms
}

/** All limits at once: what is not in the list is not limited any more. */
async function putLimits(c: AppContext, deps: AppDeps) {
  const { limits, max_wait_ms: maxWaitMs } = await readJson(c.req.raw, limitsSchema)
  const made = limits.map(({ model, project, key, ...value }) => {
    const scope = {
      ...(model === undefined ? {} : { model }),
      ...(project === undefined ? {} : { projectId: project }),
      ...(key === undefined ? {} : { keyId: key }),
    }
    if (value.dimension === 'concurrency') return makeLimit(value, scope)
    const { dimension, per_minute: perMinute, burst_ms: burstMs } = value
    return makeLimit({ dimension, perMinute, burstMs }, scope)
  })
  if (new Set(made.map(({ id }) => id)).size !== made.length) {
    const message = 'Two limits have one dimension and scope.'
    throw new ApiError('invalid_parameter', message, { param: 'limits' })
  }
  const change = { limits: made, ...(maxWaitMs === undefined ? {} : { maxWaitMs }) }
  return viewLimits(await changeTerms(c, deps, change))
}

async function putBilling(c: AppContext, deps: AppDeps) {
  const wanted = await readJson(c.req.raw, billingSchema)
  await changeTerms(c, deps, {
    billing:
      wanted.mode === 'prepaid'
        ? { kind: 'prepaid' }
        : { kind: 'postpaid', creditPico: wanted.credit_usd },
    ...(wanted.weight === undefined ? {} : { weight: wanted.weight }),
  })
  return viewBilling(c, deps)
}

async function changeTerms(
  c: AppContext,
  deps: AppDeps,
  change: Partial<Omit<Terms, 'contract'>>,
): Promise<Terms> {
  const changed = await reachObject(tenantObject(c.env, tenantParam(c)).changeTerms(change), deps)
  if (changed === null) throw noSuchTenant()
  return changed
}

async function addPrice(c: AppContext, deps: AppDeps) {
  const wanted = await readJson(c.req.raw, priceSchema)
  const nowMs = deps.now()
  const fromMs = wanted.from * 1000
  if (fromMs < nowMs - 1000) {
    throw new ApiError('invalid_parameter', "'from' is past.", { param: 'from' })
  }
  const models = Object.fromEntries(
    Object.entries(wanted.models).map(([model, price]): [string, TokenPrices] => [
      model,
      {
        cacheHitPico: price.cache_hit_usd,
        cacheMissPico: price.cache_miss_usd,
        outputPico: price.output_usd,
      },
    ]),
  )
  const version = { version: wanted.version, fromMs, models }
  const tenant = tenantObject(c.env, tenantParam(c))
  const status = await reachObject(tenant.addContractPrice(version, PRICE_VERSIONS_MAX), deps)
  if (status === 'tenant_unknown') throw noSuchTenant()
  if (status !== 'added') {
    const message =
      status === 'exists' ? 'There is such a version.' : `There are ${PRICE_VERSIONS_MAX} versions.`
    throw new ApiError('invalid_parameter', message, { param: 'version' })
  }
  return viewPrices(await readTerms(c, deps))
}

/** The caller's id makes a repeat harmless: the same top-up again changes nothing. */
async function topUp(c: AppContext, deps: AppDeps) {
  const { id, amount_usd: amountPico } = await readJson(c.req.raw, topUpSchema)
  const tenant = tenantObject(c.env, tenantParam(c))
  const status = await reachObject(tenant.topUp(id, amountPico, deps.now()), deps)
  if (status === 'tenant_unknown') throw noSuchTenant()
  if (status === 'exists_with_different_contents') {
    const message = 'There is a top-up of another amount under this id.'
    throw new ApiError('invalid_parameter', message, { param: 'id' })
  }
  return { id, amount_usd: formatUsd(amountPico), status }
}

async function viewBilling(c: AppContext, deps: AppDeps) {
  const account = await reachObject(tenantObject(c.env, tenantParam(c)).account(), deps)
  if (account === null) throw noSuchTenant()
  const { billing, weight, balancePico, heldPico } = account
  return {
    object: 'billing',
    mode: billing.kind,
    credit_usd: billing.kind === 'postpaid' ? formatUsd(billing.creditPico) : '0',
    balance_usd: formatUsd(balancePico),
    held_usd: formatUsd(heldPico),
    weight,
  }
}

function viewLimits({ limits, maxWaitMs }: Terms) {
  return { object: 'limits', max_wait_ms: maxWaitMs, limits: limits.map(viewLimit) }
}

function viewLimit(limit: Limit) {
  const { model, projectId, keyId } = limit.scope
  return {
    dimension: limit.dimension,
    ...(limit.dimension === 'concurrency'
      ? { max: limit.max }
      : { per_minute: limit.perMinute, burst_ms: limit.burstMs }),
    ...(model === undefined ? {} : { model }),
    ...(projectId === undefined ? {} : { project: projectId }),
    ...(keyId === undefined ? {} : { key: keyId }),
  }
}

function viewPrices({ contract }: Terms) {
  return {
    object: 'prices',
    versions: contract.map(({ version, fromMs, models }) => ({
      version,
      from: toUnixSeconds(fromMs),
      models: Object.fromEntries(
        Object.entries(models).map(([model, price]) => [model, viewPrice(price)]),
      ),
    })),
  }
}

function viewPrice(price: TokenPrices) {
  const perMillion = (pico: number): string => formatUsd(BigInt(pico) * TOKENS_PRICED)
  return {
    cache_hit_usd: perMillion(price.cacheHitPico),
    cache_miss_usd: perMillion(price.cacheMissPico),
    output_usd: perMillion(price.outputPico),
  }
}
