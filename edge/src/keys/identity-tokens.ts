import { createLocalJWKSet, decodeJwt, errors, jwtVerify } from 'jose'
import type { JSONWebKeySet, JWTPayload } from 'jose'
import { z } from 'zod'
import { lettersOf, readWhole, sha256 } from '../bytes.ts'
import { isTenantId } from './api-key.ts'
import { DEFAULT_PROJECT, isProjectId, ROUTE_SCOPES } from './access.ts'
import type { Access } from './access.ts'

/** An OpenID Connect issuer whose tokens are taken in place of API keys. */
export interface IdentityIssuer {
  readonly issuer: string
  readonly audience: string
  readonly jwksUrl: string
  /** The one signature algorithm that is taken; what a token says of itself is not asked. */
  readonly algorithm: string
  /** The tenant every token of this issuer belongs to, or null when `tenantClaim` names it. */
  readonly tenantId: string | null
  readonly tenantClaim: string
}

/** A token's bearer, a person or a service, as a key of its tenant. */
export interface Identity {
  readonly tenantId: string
  /** Made from issuer and subject: the same at every visit, so limits and usage keep to it. */
  readonly keyId: string
  readonly name: string
  readonly access: Access
  readonly expiresAtMs: number
}

export type IdentityAnswer = Identity | 'refused' | 'unreachable'

interface KnownKeySet {
  readonly jwks: JSONWebKeySet
  readonly fetchedAtMs: number
}

const FRESH_MS = 10 * 60_000
/** A token under a key we do not know asks the issuer again, but not more often than this. */
const REFETCH_MS = 30_000
const JWKS_BYTES_MAX = 256 * 1024
const CLOCK_TOLERANCE_SECONDS = 5
const KEY_LETTERS = 8

const jwksSchema = z.object({ keys: z.array(z.looseObject({ kty: z.string() })) })
const scopesSchema = z.object({
  sluice_project: z.string().refine(isProjectId).default(DEFAULT_PROJECT),
  sluice_models: z.array(z.string().min(1)).max(64).nullable().default(null),
  sluice_routes: z.array(z.enum(ROUTE_SCOPES)).nullable().default(null),
})

export interface IdentityTokensDeps {
  readonly fetch: (url: string, init: RequestInit) => Promise<Response>
  readonly now: () => number
}

/**
 * Checks tokens of the configured issuers. jose does the checking; the key sets are kept here as
 * values, since jose's own remote set shares the promise of a fetch between requests, which workerd
 * does not allow. While an issuer cannot be reached, the keys it published last stay good.
 */
export class IdentityTokens {
  readonly #deps: IdentityTokensDeps
  readonly #known = new Map<string, KnownKeySet>()

  constructor(deps: IdentityTokensDeps) {
    this.#deps = deps
  }

  async verify(token: string, issuers: readonly IdentityIssuer[]): Promise<IdentityAnswer> {
    const issuer = issuers.find((entry) => entry.issuer === claimedIssuer(token))
    if (issuer === undefined) return 'refused'
    const keys = await this.#keysOf(issuer, FRESH_MS)
    if (keys === null) return 'unreachable'
    const checked = await this.#check(token, issuer, keys.jwks)
    if (checked !== 'unknown_key') return checked
    const newer = await this.#keysOf(issuer, REFETCH_MS)
    if (newer === null || newer === keys) return 'refused'
    const again = await this.#check(token, issuer, newer.jwks)
    return again === 'unknown_key' ? 'refused' : again
  }

  async #check(
    token: string,
    issuer: IdentityIssuer,
    jwks: JSONWebKeySet,
  ): Promise<Identity | 'refused' | 'unknown_key'> {
    try {
      const { payload } = await jwtVerify(token, createLocalJWKSet(jwks), {
        algorithms: [issuer.algorithm],
        issuer: issuer.issuer,
        audience: issuer.audience,
        currentDate: new Date(this.#deps.now()),
        clockTolerance: CLOCK_TOLERANCE_SECONDS,
        requiredClaims: ['exp', 'sub'],
      })
      return (await toIdentity(payload, issuer)) ?? 'refused'
    } catch (cause) {
      // Whatever else is wrong with it gets one answer: who guesses learns nothing.
      return cause instanceof errors.JWKSNoMatchingKey ? 'unknown_key' : 'refused'
    }
  }

  /** The issuer's keys, asked for again when older than `ageMaxMs`; null when never reached. */
  async #keysOf(issuer: IdentityIssuer, ageMaxMs: number): Promise<KnownKeySet | null> {
    const known = this.#known.get(issuer.jwksUrl)
    const nowMs = this.#deps.now()
    if (known !== undefined && nowMs - known.fetchedAtMs < ageMaxMs) return known
    const jwks = await this.#fetchKeys(issuer.jwksUrl)
    if (jwks === null) return known ?? null
    const fetched = { jwks, fetchedAtMs: nowMs }
    this.#known.set(issuer.jwksUrl, fetched)
    return fetched
  }

  async #fetchKeys(url: string): Promise<JSONWebKeySet | null> {
    try {
      const response = await this.#deps.fetch(url, {
        headers: { accept: 'application/json' },
        redirect: 'manual',
        signal: AbortSignal.timeout(5_000),
      })
      const bytes = await readWhole(response.body, JWKS_BYTES_MAX)
      if (response.status !== 200 || bytes === null) return null
      return jwksSchema.parse(JSON.parse(new TextDecoder().decode(bytes)))
    } catch {
      // Unreachable or no key set: the caller goes on with what it knows.
      return null
    }
  }
}

/** Whether a credential is written as a token rather than as a key. */
export function looksLikeToken(text: string): boolean {
  return /^eyJ[\w-]*\.[\w-]+\.[\w-]+$/.test(text)
}

function claimedIssuer(token: string): string | null {
  try {
    return decodeJwt(token).iss ?? null
  } catch {
    // No token at all: refused like one of a stranger.
    return null
  }
}

async function toIdentity(payload: JWTPayload, issuer: IdentityIssuer): Promise<Identity | null> {
  const tenantId = issuer.tenantId ?? payload[issuer.tenantClaim]
  const scopes = scopesSchema.safeParse(payload)
  const { sub, exp } = payload
  if (typeof tenantId !== 'string' || !isTenantId(tenantId) || !scopes.success) return null
  if (sub === undefined || sub === '' || exp === undefined) return null
  const digest = await sha256(JSON.stringify([issuer.issuer, sub]))
  const ending = lettersOf(digest.subarray(0, KEY_LETTERS))
  return {
    tenantId,
    keyId: tenantId + ending,
    name: sub.slice(0, 200),
    access: {
      projectId: scopes.data.sluice_project,
      models: scopes.data.sluice_models,
      routes: scopes.data.sluice_routes,
    },
    expiresAtMs: exp * 1000,
  }
}
