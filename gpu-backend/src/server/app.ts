import { randomUUID } from 'node:crypto'
import type { HttpBindings } from '@hono/node-server'
import { Hono, type Context, type MiddlewareHandler } from 'hono'
import type { ContentfulStatusCode } from 'hono/utils/http-status'
import type { CryptoKey } from 'jose'
import { ApiError } from '#protocol/errors.ts'
import { REQUEST_ID_HEADER } from '#protocol/headers.ts'
import {
  verifyPoolToken,
  verifyServiceToken,
  type PoolScope,
  type RequestClaims,
} from '#protocol/service-token.ts'
import { errorFields, type Log } from '../log.ts'
import type { Backend } from './backend.ts'
import type { CapacityMeter } from './capacity.ts'
import { chatCompletions } from './chat-completions.ts'
import { showMetrics } from './metrics-page.ts'
import { acknowledgeRecords, lookUpRecord, readRecords } from './record-routes.ts'
import { requestEvents, requestStatus } from './request-routes.ts'

export interface AppEnv {
  readonly Bindings: HttpBindings
  readonly Variables: { readonly claims: RequestClaims }
}

export interface AppOptions {
  readonly backend: Backend
  readonly capacity: CapacityMeter
  /** Whether `/metrics` answers here. */
  readonly metrics: boolean
  readonly pool: string
  readonly edgePublicKey: CryptoKey
  readonly log: Log
  readonly now: () => number
}

/** An id that may be put into headers, records and logs as it is. */
const requestIdPattern = /^[\x21-\x7e]{1,128}$/

export function createApp(options: AppOptions): Hono<AppEnv> {
  const { backend } = options
  const app = new Hono<AppEnv>()
  app.get('/health', (c) => c.json({ status: 'ok' }))
  app.get('/ready', (c) => {
    const readiness = backend.readiness()
    return c.json(readiness, readiness.status === 'ready' ? 200 : 503)
  })
  if (options.metrics) app.get('/metrics', showMetrics(backend))
  app.get('/capacity', requirePoolToken(options, 'capacity'), (c) =>
    c.json(options.capacity.report()),
  )
  addRecordRoutes(app, options)
  app.use('/v1/*', authenticate(options))
  app.post('/v1/chat/completions', chatCompletions(backend))
  app.all('/v1/chat/completions', refuseMethod('POST'))
  app.get('/v1/models', (c) => c.json({ object: 'list', data: [backend.served().entry] }))
  app.all('/v1/models', refuseMethod('GET'))
  app.get('/v1/models/:id', (c) => {
    const { entry } = backend.served()
    if (c.req.param('id') !== entry.id) throw notFound(`no model ${c.req.param('id')}`)
    return c.json(entry)
  })
  app.all('/v1/models/:id', refuseMethod('GET'))
  app.get('/v1/requests/:id', requestStatus(backend))
  app.all('/v1/requests/:id', refuseMethod('GET'))
  app.get('/v1/requests/:id/events', requestEvents(backend))
  app.all('/v1/requests/:id/events', refuseMethod('GET'))
  app.notFound((c) => answerError(c, notFound(`no route ${c.req.method} ${c.req.path}`)))
  app.onError((error, c) => {
    const refusal = toApiError(error, c, options.log)
    const { code, param } = refusal
    backend.options.metrics.requestRefused(code)
    options.log.info('request_refused', { request_id: knownRequestId(c), code, param })
    return answerError(c, refusal)
  })
  return app
}

/** Ahead of the tenants' routes, whose tokens are good for nothing here. */
function addRecordRoutes(app: Hono<AppEnv>, options: AppOptions): void {
  const { backend } = options
  app.use('/v1/records/*', requirePoolToken(options, 'records'))
  app.get('/v1/records', readRecords(backend))
  app.all('/v1/records', refuseMethod('GET'))
  app.post('/v1/records/ack', acknowledgeRecords(backend))
  app.get('/v1/records/:id', lookUpRecord(backend))
  app.all('/v1/records/:id', refuseMethod('GET'))
}

/** Lets through whoever holds the edge's token for this purpose. */
function requirePoolToken(options: AppOptions, scope: PoolScope): MiddlewareHandler<AppEnv> {
  const { pool, edgePublicKey, now } = options
  return async function checkPoolToken(c, next) {
    const token = bearerToken(c)
    const expected = { pool, scope, nowMs: now() }
    if (token === null || !(await verifyPoolToken(token, edgePublicKey, expected))) {
      throw notTheEdge()
    }
    await next()
  }
}

function bearerToken(c: Context<AppEnv>): string | null {
  return /^Bearer ([^ ]+)$/.exec(c.req.header('authorization') ?? '')?.[1] ?? null
}

function notTheEdge(): ApiError {
  const message = 'Authentication failed: this backend takes requests from its edge only.'
  return new ApiError('invalid_service_token', message)
}

/** Lets through whoever holds the edge's token for a tenant's key, with an id for the request. */
function authenticate(options: AppOptions): MiddlewareHandler<AppEnv> {
  const { pool, edgePublicKey, now } = options
  return async function checkServiceToken(c, next) {
    const requestId = c.req.header(REQUEST_ID_HEADER) ?? ''
    const token = bearerToken(c)
    const claims =
      token === null || !requestIdPattern.test(requestId)
        ? null
        : await verifyServiceToken(token, edgePublicKey, { pool, nowMs: now() })
    if (claims === null) throw notTheEdge()
    c.set('claims', { ...claims, requestId })
    c.header(REQUEST_ID_HEADER, requestId)
    await next()
  }
}

function refuseMethod(allowed: string) {
  return (c: Context<AppEnv>): never => {
    c.header('allow', allowed)
    throw new ApiError('method_not_allowed', `${c.req.method} is not allowed here; use ${allowed}.`)
  }
}

function notFound(what: string): ApiError {
  return new ApiError('not_found', `There is ${what}.`)
}

function knownRequestId(c: Context<AppEnv>): string | null {
  const id = c.req.header(REQUEST_ID_HEADER) ?? ''
  return requestIdPattern.test(id) ? id : null
}

/** Whatever is not a refusal is a bug: the log has it, the client learns that it was our fault. */
function toApiError(error: unknown, c: Context<AppEnv>, log: Log): ApiError {
  if (error instanceof ApiError) return error
  log.error('request_crashed', { request_id: knownRequestId(c), ...errorFields(error) })
  return new ApiError('internal_server_error', 'The backend failed on this request.', {
    cause: error,
  })
}

function answerError(c: Context<AppEnv>, error: ApiError): Response {
  for (const [name, value] of Object.entries(error.toHeaders())) c.header(name, value)
  c.header(REQUEST_ID_HEADER, knownRequestId(c) ?? randomUUID())
  return c.json(error.toEnvelope(), error.status as ContentfulStatusCode)
}
