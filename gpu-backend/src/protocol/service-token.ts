import type { CryptoKey } from 'jose'
import { jwtVerify, SignJWT } from 'jose'
import { z } from 'zod'

/**
 * The edge proves itself to a backend with a short-lived EdDSA token. It names the pool (audience),
 * the tenant and its key, so a token that leaks is of no use for another tenant, another pool, or a
 * minute later. It serves a key's requests for a while: a signature and its check each are dearer
 * than all the rest that is done for a short request.
 */
const ISSUER = 'sluice-edge'
const ALGORITHM = 'EdDSA'
const LIFETIME_SECONDS = 60
/** A token is used for this long and then made anew: what is left of its life is for the way. */
export const SERVICE_TOKEN_USE_MS = 20_000
const CLOCK_TOLERANCE_SECONDS = 5

export interface ServiceClaims {
  readonly pool: string
  readonly tenantId: string
  readonly keyId: string
}

/** One of its requests, by the id that the request itself carries. */
export interface RequestClaims extends ServiceClaims {
  readonly requestId: string
}

/** Ids end up in usage records and are bounded as they are there. */
const id = z.string().min(1).max(256)
const claimsSchema = z.object({ sub: id, kid: id })

/** Signs the claims with the edge's private key (Ed25519). `nowMs` is Unix time in milliseconds. */
export function signServiceToken(
  claims: ServiceClaims,
  privateKey: CryptoKey,
  nowMs: number,
): Promise<string> {
  const issuedAt = Math.floor(nowMs / 1000)
  return new SignJWT({ kid: claims.keyId })
    .setProtectedHeader({ alg: ALGORITHM })
    .setIssuer(ISSUER)
    .setAudience(claims.pool)
    .setSubject(claims.tenantId)
    .setIssuedAt(issuedAt)
    .setExpirationTime(issuedAt + LIFETIME_SECONDS)
    .sign(privateKey)
}

export interface ServiceTokenExpectation {
  readonly pool: string
  readonly nowMs: number
}

/**
 * The token's claims, or null when anything about it is wrong: the caller has no use for the
 * reason, and an answer that tells reasons apart only helps whoever is guessing.
 */
export async function verifyServiceToken(
  token: string,
  publicKey: CryptoKey,
  expected: ServiceTokenExpectation,
): Promise<ServiceClaims | null> {
  try {
    const { payload } = await jwtVerify(token, publicKey, {
      algorithms: [ALGORITHM],
      issuer: ISSUER,
      audience: expected.pool,
      currentDate: new Date(expected.nowMs),
      clockTolerance: CLOCK_TOLERANCE_SECONDS,
      requiredClaims: ['exp', 'iat', 'sub', 'kid'],
      maxTokenAge: LIFETIME_SECONDS,
    })
    const claims = claimsSchema.parse(payload)
    return { pool: expected.pool, tenantId: claims.sub, keyId: claims.kid }
  } catch {
    // Malformed, forged, expired, wrong pool: one answer for all of them.
    return null
  }
}

/** What the edge asks of a backend on its own behalf, for no tenant's request. */
export type PoolScope = 'records' | 'capacity'

const POOL_TOKEN_TYPE = 'sluice-pool-token'

/** A token for the pool's own affairs. Its type and claims keep the two kinds apart. */
export function signPoolToken(
  claims: { readonly pool: string; readonly scope: PoolScope },
  privateKey: CryptoKey,
  nowMs: number,
): Promise<string> {
  const issuedAt = Math.floor(nowMs / 1000)
  return new SignJWT({ scope: claims.scope })
    .setProtectedHeader({ alg: ALGORITHM, typ: POOL_TOKEN_TYPE })
    .setIssuer(ISSUER)
    .setAudience(claims.pool)
    .setIssuedAt(issuedAt)
    .setExpirationTime(issuedAt + LIFETIME_SECONDS)
    .sign(privateKey)
}

/** Whether the token is the edge's, for this pool and this purpose, and still good. */
export async function verifyPoolToken(
  token: string,
  publicKey: CryptoKey,
  expected: { readonly pool: string; readonly scope: PoolScope; readonly nowMs: number },
): Promise<boolean> {
  try {
    const { payload } = await jwtVerify(token, publicKey, {
      algorithms: [ALGORITHM],
      typ: POOL_TOKEN_TYPE,
      issuer: ISSUER,
      audience: expected.pool,
      currentDate: new Date(expected.nowMs),
      clockTolerance: CLOCK_TOLERANCE_SECONDS,
      requiredClaims: ['exp', 'iat', 'scope'],
      maxTokenAge: LIFETIME_SECONDS,
    })
    return payload['scope'] === expected.scope
  } catch {
    // As above: whatever is wrong, the answer is no.
    return false
  }
}
