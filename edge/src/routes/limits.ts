import { Hono } from 'hono'
import { parseChatRequest } from '#protocol/chat-completions.ts'
import { ApiError } from '#protocol/errors.ts'
import type { LimitState } from '../admission/tenant-capacity.ts'
import { amountOf } from '../admission/prices.ts'
import type { AppContext, AppDeps, AppEnv } from '../context.ts'
import { reachObject, refuseMethod } from '../failures.ts'
import { maxCostOf, sizeOf } from '../flow/admit.ts'
import { requireScope } from '../middleware/authenticate.ts'
import { tenantObject } from '../objects/stubs.ts'
import { DIMENSION_NAMES } from '../rate-limit-headers.ts'
import { parseJsonBytes, readBody } from '../request-body.ts'
import { formatUsd } from '../usd.ts'
import { choosePool, requireModel } from './chat-completions.ts'

/** Where the key's own limits stand, and what a request would take of them, without taking it. */
export function limits(deps: AppDeps): Hono<AppEnv> {
  const routes = new Hono<AppEnv>()
  for (const base of ['', '/v1']) {
    routes.get(`${base}/limits`, requireScope('limits'), async (c) =>
      c.json(await showLimits(c, deps)),
    )
    routes.all(`${base}/limits`, refuseMethod('GET, HEAD'))
    routes.post(`${base}/estimate`, requireScope('chat'), async (c) =>
      c.json(await estimate(c, deps)),
    )
    routes.all(`${base}/estimate`, refuseMethod('POST'))
  }
  return routes
}

/** Of one model with `?model=`, else of every model that is served. */
async function showLimits(c: AppContext, deps: AppDeps) {
  const { tenantId, keyId, access } = c.get('caller')
  const asked = c.req.query('model')
  const served = [...new Set(c.get('settings').pools.flatMap((pool) => pool.models))]
  const models = asked === undefined ? served : [asked]
  const tenant = tenantObject(c.env, tenantId)
  const account = await reachObject(tenant.account(), deps)
  if (account === null) throw new ApiError('not_found', 'There is no such tenant.')
  const data = await Promise.all(
    models.map(async (model) => {
      const scope = { projectId: access.projectId, keyId, model }
      const states = await reachObject(tenant.limitStates(scope, deps.now()), deps)
      return { model, limits: (states ?? []).map(viewLimitState) }
    }),
  )
  return {
    object: 'limits',
    billing: {
      mode: account.billing.kind,
      balance_usd: formatUsd(account.balancePico),
      held_usd: formatUsd(account.heldPico),
      available_usd: formatUsd(account.availablePico),
    },
    /** Requests that wait for room under these limits. */
    waiting: account.waiting,
    data,
  }
}

/** Takes what `/chat/completions` takes and says what it would be held against and cost. */
async function estimate(c: AppContext, deps: AppDeps) {
  const settings = c.get('settings')
  const body = await readBody(c.req.raw, settings.bodyBytesMax)
  const request = parseChatRequest(parseJsonBytes(body))
  choosePool(settings.pools, request.model, deps.random)
  requireModel(c, request.model)
  const { tenantId, keyId, access } = c.get('caller')
  const scope = { projectId: access.projectId, keyId, model: request.model }
  const size = sizeOf(request, body.byteLength)
  const asked = { ...size, scope, maxCostPico: maxCostOf(c) }
  const quote = await reachObject(tenantObject(c.env, tenantId).quote(asked, deps.now()), deps)
  if (quote === null) throw new ApiError('not_found', 'There is no such tenant.')
  const { price, expectedPico } = quote
  const worst = {
    promptTokens: size.bodyBytes,
    cachedTokens: 0,
    outputTokens: size.outputTokensMax,
  }
  return {
    object: 'estimate',
    model: request.model,
    price_version: price?.version ?? null,
    input_tokens: quote.estimate.inputTokens,
    uncached_input_tokens: quote.estimate.uncachedInputTokens,
    output_tokens: quote.estimate.outputTokens,
    output_tokens_max: size.outputTokensMax,
    expected_usd: expectedPico === null ? null : formatUsd(BigInt(expectedPico)),
    /** Every byte a token that misses the cache, every allowed token made. */
    worst_usd: price === null ? null : formatUsd(BigInt(amountOf(price, worst))),
    available_usd: formatUsd(quote.availablePico),
    limits: quote.limits.map(viewLimitState),
  }
}

export function viewLimitState(state: LimitState) {
  return {
    dimension: DIMENSION_NAMES[state.dimension],
    limit: state.limit,
    remaining: state.remaining,
    requested: state.need,
    wait_ms: state.waitMs,
    reset_ms: state.resetMs,
  }
}
