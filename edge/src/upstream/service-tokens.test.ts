import { beforeAll, describe, expect, it } from 'vitest'
import type { CryptoKey } from 'jose'
import { generateKeyJwks, importPrivateKey, importPublicKey } from '#protocol/keys.ts'
import { verifyServiceToken } from '#protocol/service-token.ts'
import type { ServiceClaims } from '#protocol/service-token.ts'
import { ServiceTokens } from './service-tokens.ts'

const NOW_MS = 1_800_000_000_000
const CLAIMS: ServiceClaims = { pool: 'a', tenantId: 't_1', keyId: 'k_1' }

let privateKey: CryptoKey
let publicKey: CryptoKey

beforeAll(async () => {
  const keys = await generateKeyJwks()
  privateKey = await importPrivateKey(JSON.stringify(keys.privateJwk))
  publicKey = await importPublicKey(JSON.stringify(keys.publicJwk))
})

describe('service tokens of an isolate', () => {
  it('are signed once in twenty seconds, and good for long enough when last used', async () => {
    const tokens = new ServiceTokens(privateKey)
    const first = await tokens.get(CLAIMS, NOW_MS)
    expect(tokens.get(CLAIMS, NOW_MS + 19_999)).toBe(first)
    const expected = { pool: 'a', nowMs: NOW_MS + 19_999 + 30_000 }
    expect(await verifyServiceToken(first, publicKey, expected)).toEqual(CLAIMS)
    const second = await tokens.get(CLAIMS, NOW_MS + 20_000)
    expect(second).not.toBe(first)
    expect(tokens.get(CLAIMS, NOW_MS + 20_001)).toBe(second)
  })

  it('name the pool, the tenant and the key they were asked for', async () => {
    const tokens = new ServiceTokens(privateKey)
    const asked = [
      CLAIMS,
      { ...CLAIMS, pool: 'b' },
      { ...CLAIMS, tenantId: 't_2' },
      { ...CLAIMS, keyId: 'k_2' },
    ]
    for (const claims of [...asked, ...asked]) {
      const token = await tokens.get(claims, NOW_MS)
      const expected = { pool: claims.pool, nowMs: NOW_MS }
      expect(await verifyServiceToken(token, publicKey, expected)).toEqual(claims)
    }
  })
})
