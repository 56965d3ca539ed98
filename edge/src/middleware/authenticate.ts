import type { MiddlewareHandler } from 'hono'
import { ApiError } from '#protocol/errors.ts'
import type { AppContext, AppDeps, AppEnv, Caller } from '../context.ts'
import { overloaded, reachObject } from '../failures.ts'
import { mayUseRoute } from '../keys/access.ts'
import type { RouteScope } from '../keys/access.ts'
import { hashSecret, lastFour, parseApiKey } from '../keys/api-key.ts'
import { IdentityTokens, looksLikeToken } from '../keys/identity-tokens.ts'
import { VerifiedKeys } from '../keys/verified-keys.ts'
import { tenantObject } from '../objects/stubs.ts'
import type { VerifiedKey } from '../objects/tenant/keys-table.ts'

/** Under the two seconds within which a revocation must take hold everywhere. */
const VERIFIED_TTL_MS = 1_500
const VERIFIED_KEYS_MAX = 10_000
/** Shorter than this, the last four characters would be most of what was presented. */
const ECHO_LENGTH_MIN = 16

/** A credential that was accepted, and until when it may be at all. */
interface Accepted {
  readonly caller: Caller
  readonly untilMs: number | null
}

interface Verifier {
  readonly verified: VerifiedKeys<Caller>
  readonly identities: IdentityTokens
  readonly deps: AppDeps
}

/**
 * Lets a request through with a valid API key, or a token of a configured issuer, and sets
 * `caller`; anything else is a 401.
 */
export function authenticate(deps: AppDeps): MiddlewareHandler<AppEnv> {
  const verifier: Verifier = {
    verified: new VerifiedKeys({ keysMax: VERIFIED_KEYS_MAX, ttlMs: VERIFIED_TTL_MS }),
    identities: new IdentityTokens(deps),
    deps,
  }
  return async function authenticateCaller(c, next) {
    const startedAtMs = deps.now()
    const caller = await identify(c, verifier)
    const trace = c.get('trace')
    trace.tenantId = caller.tenantId
    trace.keyId = caller.keyId
    trace.addPhase('auth', deps.now() - startedAtMs)
    c.set('caller', caller)
    await next()
  }
}

/** Refuses a caller whose key is kept to other parts of the API. */
export function requireScope(scope: RouteScope): MiddlewareHandler<AppEnv> {
  return async function checkScope(c, next) {
    if (!mayUseRoute(c.get('caller').access, scope)) {
      throw new ApiError('permission_denied', `This key may not use the '${scope}' routes.`)
    }
    await next()
  }
}

async function identify(c: AppContext, verifier: Verifier): Promise<Caller> {
  const presented = presentedKey(c.req.raw.headers)
  if (presented === null) {
    throw unauthenticated('no API key was given; send it as "Authorization: Bearer <key>".')
  }
  const askedAtMs = verifier.deps.now()
  const known = verifier.verified.get(presented, askedAtMs)
  if (known !== null) return known
  const accepted = looksLikeToken(presented)
    ? await acceptToken(c, presented, verifier)
    : await acceptKey(c, presented, verifier.deps)
  verifier.verified.add(presented, accepted.caller, { askedAtMs, untilMs: accepted.untilMs })
  return accepted.caller
}

async function acceptKey(c: AppContext, presented: string, deps: AppDeps): Promise<Accepted> {
  const key = parseApiKey(presented)
  if (key === null) throw refused(presented)
  const { tenantId, keyId } = key
  const secretHash = await hashSecret(key.secret)
  const asked = tenantObject(c.env, tenantId).verifyKey(keyId, secretHash, deps.now())
  return accept({ tenantId, keyId }, await reachObject(asked, deps), presented)
}

async function acceptToken(
  c: AppContext,
  presented: string,
  { identities, deps }: Verifier,
): Promise<Accepted> {
  const identity = await identities.verify(presented, c.get('settings').identityIssuers)
  if (identity === 'unreachable') {
    throw overloaded('The issuer of this token cannot be asked for its keys now.', deps.random)
  }
  if (identity === 'refused') throw unauthenticated('the token is not valid.')
  const { tenantId, keyId, name, access, expiresAtMs } = identity
  const asked = tenantObject(c.env, tenantId).verifyIdentity({ keyId, name, access }, deps.now())
  const { caller } = accept({ tenantId, keyId }, await reachObject(asked, deps), presented)
  return { caller, untilMs: expiresAtMs }
}

function accept(
  ids: { readonly tenantId: string; readonly keyId: string },
  verified: VerifiedKey,
  presented: string,
): Accepted {
  // A revoked key and an unknown one get the same answer: which of the two is nobody's business.
  if (verified.status !== 'valid') throw refused(presented)
  return { caller: { ...ids, access: verified.access }, untilMs: verified.expiresAtMs }
}

/** The credential a client sent under either header; `Authorization` wins over `x-api-key`. */
export function presentedKey(headers: Headers): string | null {
  const authorization = headers.get('authorization')
  if (authorization === null) return headers.get('x-api-key')
  return /^bearer +(\S+)$/i.exec(authorization.trim())?.[1] ?? ''
}

function refused(presented: string): ApiError {
  const ending = lastFour(presented)
  const echo =
    presented.length >= ECHO_LENGTH_MIN && /^[\w-]{4}$/.test(ending) && !looksLikeToken(presented)
  return unauthenticated(`the key${echo ? ` ending in ${ending}` : ''} is not valid.`)
}

function unauthenticated(reason: string): ApiError {
  return new ApiError('invalid_api_key', `Authentication failed: ${reason}`)
}
