import { randomUUID } from 'node:crypto'
import type { HttpBindings } from '@hono/node-server'
import { Hono, type Context, type MiddlewareHandler } from 'hono'
import type { ContentfulStatusCode } from 'hono/utils/http-status'
import type { CryptoKey } from 'jose'
import { ApiError } from '#protocol/errors.ts'
import { REQUEST_ID_HEADER } from '#protocol/headers.ts'
import { verifyServiceToken, type ServiceClaims } from '#protocol/service-token.ts'
import { errorFields, type Log } from '../log.ts'
import type { Backend } from './backend.ts'
import { chatCompletions } from './chat-completions.ts'

export interface AppEnv {
  readonly Bindings: HttpBindings
  readonly Variables: { readonly claims: ServiceClaims }
}

export interface AppOptions {
  readonly backend: Backend
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
  app.notFound((c) => answerError(c, notFound(`no route ${c.req.method} ${c.req.path}`)))
  app.onError((error, c) => {
    const refusal = toApiError(error, c, options.log)
    const { code, param } = refusal
    options.log.info('request_refused', { request_id: knownRequestId(c), code, param })
    return answerError(c, refusal)
  })
  return app
}

/** Lets through whoever holds the edge's token for this very request. */
function authenticate(options: AppOptions): MiddlewareHandler<AppEnv> {
  const { pool, edgePublicKey, now } = options
  return async function checkServiceToken(c, next) {
    const requestId = c.req.header(REQUEST_ID_HEADER) ?? ''
    const token = /^Bearer ([^ ]+)$/.exec(c.req.header('authorization') ?? '')?.[1]
    const claims =
      token === undefined || !requestIdPattern.test(requestId)
        ? null
        : await verifyServiceToken(token, edgePublicKey, { pool, requestId, nowMs: now() })
    if (claims === null) {
      const message = 'Authentication failed: this backend takes requests from its edge only.'
      throw new ApiError('invalid_service_token', message)
    }
    c.set('claims', claims)
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
