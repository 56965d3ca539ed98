import type { MiddlewareHandler } from 'hono'
import { ApiError } from '#protocol/errors.ts'
import { toHex } from '../bytes.ts'
import type { AppContext, AppDeps, AppEnv, Caller } from '../context.ts'
import { reachObject } from '../failures.ts'
import { hashSecret, lastFour, parseApiKey } from '../keys/api-key.ts'
import { VerifiedKeys } from '../keys/verified-keys.ts'
import { tenantObject } from '../objects/stubs.ts'

/** Under the two seconds within which a revocation must take hold everywhere. */
const VERIFIED_TTL_MS = 1_500
const VERIFIED_KEYS_MAX = 10_000
/** Shorter than this, the last four characters would be most of what was presented. */
const ECHO_LENGTH_MIN = 16

/** Lets a request through with a valid API key and sets `caller`; anything else is a 401. */
export function authenticate(deps: AppDeps): MiddlewareHandler<AppEnv> {
  const verified = new VerifiedKeys({ keysMax: VERIFIED_KEYS_MAX, ttlMs: VERIFIED_TTL_MS })
  return async function authenticateCaller(c, next) {
    const startedAtMs = deps.now()
    const caller = await identify(c, verified, deps)
    const trace = c.get('trace')
    trace.tenantId = caller.tenantId
    trace.keyId = caller.keyId
    trace.addPhase('auth', deps.now() - startedAtMs)
    c.set('caller', caller)
    await next()
  }
}

async function identify(c: AppContext, verified: VerifiedKeys, deps: AppDeps): Promise<Caller> {
  const presented = presentedKey(c.req.raw.headers)
  if (presented === null) {
    throw unauthenticated('no API key was given; send it as "Authorization: Bearer <key>".')
  }
  const key = parseApiKey(presented)
  if (key === null) throw refused(presented)
  const { tenantId, keyId } = key
  const secretHash = await hashSecret(key.secret)
  const fingerprint = `${keyId}:${toHex(secretHash)}`
  const askedAtMs = deps.now()
  if (verified.has(fingerprint, askedAtMs)) return { tenantId, keyId }
  const asked = tenantObject(c.env, tenantId).verifyKey(keyId, secretHash)
  const status = await reachObject(asked, deps)
  // A revoked key and an unknown one get the same answer: which of the two is nobody's business.
  if (status !== 'valid') throw refused(presented)
  verified.add(fingerprint, askedAtMs)
  return { tenantId, keyId }
}

/** The credential a client sent under either header; `Authorization` wins over `x-api-key`. */
export function presentedKey(headers: Headers): string | null {
  const authorization = headers.get('authorization')
  if (authorization === null) return headers.get('x-api-key')
  return /^bearer +(\S+)$/i.exec(authorization.trim())?.[1] ?? ''
}

function refused(presented: string): ApiError {
  const ending = lastFour(presented)
  const echo = presented.length >= ECHO_LENGTH_MIN && /^[\w-]{4}$/.test(ending)
  return unauthenticated(`the key${echo ? ` ending in ${ending}` : ''} is not valid.`)
}

function unauthenticated(reason: string): ApiError {
  return new ApiError('invalid_api_key', `Authentication failed: ${reason}`)
}
