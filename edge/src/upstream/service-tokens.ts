import type { CryptoKey } from 'jose'
import { SERVICE_TOKEN_USE_MS, signServiceToken } from '#protocol/service-token.ts'
import type { ServiceClaims } from '#protocol/service-token.ts'
import { BoundedMap } from '../bounded-map.ts'

const TOKENS_MAX = 10_000

interface MadeToken {
  readonly token: string
  readonly useUntilMs: number
}

/**
 * The tokens this isolate shows to backends, one for each pool and key, each made anew when it has
 * been used for a third of its life. Values are kept, promises never: two requests that come at once
 * may both sign.
 */
export class ServiceTokens {
  readonly #signingKey: CryptoKey
  readonly #made = new BoundedMap<string, MadeToken>(TOKENS_MAX)

  constructor(signingKey: CryptoKey) {
    this.#signingKey = signingKey
  }

  /** At once where there is one in hand. */
  get(claims: ServiceClaims, nowMs: number): string | Promise<string> {
    const id = `${claims.keyId} ${claims.tenantId} ${claims.pool}`
    const made = this.#made.get(id)
    if (made !== undefined && nowMs < made.useUntilMs) return made.token
    return this.#make(id, claims, nowMs)
  }

  async #make(id: string, claims: ServiceClaims, nowMs: number): Promise<string> {
    const token = await signServiceToken(claims, this.#signingKey, nowMs)
    this.#made.set(id, { token, useUntilMs: nowMs + SERVICE_TOKEN_USE_MS })
    return token
  }
}
