import type { CryptoKey } from 'jose'
import { SignJWT } from 'jose'
import { beforeAll, describe, expect, it } from 'vitest'
import { generateKeyJwks, importPrivateKey, importPublicKey } from './keys.ts'
import {
  signPoolToken,
  signServiceToken,
  verifyPoolToken,
  verifyServiceToken,
  type ServiceClaims,
} from './service-token.ts'

const claims: ServiceClaims = { pool: 'local', tenantId: 't_1', keyId: 'k_1' }
const nowMs = 1_800_000_000_000

let privateKey: CryptoKey
let publicKey: CryptoKey
let foreignKey: CryptoKey

beforeAll(async () => {
  const ours = await generateKeyJwks()
  const theirs = await generateKeyJwks()
  privateKey = await importPrivateKey(JSON.stringify(ours.privateJwk))
  publicKey = await importPublicKey(JSON.stringify(ours.publicJwk))
  foreignKey = await importPrivateKey(JSON.stringify(theirs.privateJwk))
})

const verify = (
  token: string,
  changes: { pool?: string; nowMs?: number } = {},
): Promise<ServiceClaims | null> =>
  verifyServiceToken(token, publicKey, { pool: 'local', nowMs, ...changes })

describe('service tokens', () => {
  it('give back the claims they were made of', async () => {
    expect(await verify(await signServiceToken(claims, privateKey, nowMs))).toEqual(claims)
  })

  it('hold for a minute and the tolerance of two clocks, no longer and no sooner', async () => {
    const token = await signServiceToken(claims, privateKey, nowMs)
    const holds = async (seconds: number): Promise<boolean> =>
      (await verify(token, { nowMs: nowMs + seconds * 1000 })) !== null
    expect([await holds(-5), await holds(0), await holds(60), await holds(64)]).toEqual([
      true,
      true,
      true,
      true,
    ])
    expect([await holds(-6), await holds(66), await holds(3600)]).toEqual([false, false, false])
  })

  it('hold for their own pool only', async () => {
    const token = await signServiceToken(claims, privateKey, nowMs)
    expect(await verify(token, { pool: 'other' })).toBeNull()
  })

  it('are refused from anyone else, and in any other shape', async () => {
    expect(await verify(await signServiceToken(claims, foreignKey, nowMs))).toBeNull()
    const token = await signServiceToken(claims, privateKey, nowMs)
    const [header = '', payload = '', signature = ''] = token.split('.')
    const unsigned = Buffer.from('{"alg":"none"}').toString('base64url')
    for (const broken of [
      '',
      'x.y.z',
      `${unsigned}.${payload}.`,
      `${header}.${payload}.`,
      `${header}.${payload}.${signature.toUpperCase()}`,
    ]) {
      expect(await verify(broken), broken.slice(0, 20)).toBeNull()
    }
  })

  it.each(['sub', 'kid', 'exp', 'iat'])('are refused without %s', async (missing) => {
    const seconds = nowMs / 1000
    const all: Record<string, unknown> = {
      iss: 'sluice-edge',
      aud: 'local',
      sub: 't_1',
      kid: 'k_1',
      iat: seconds,
      exp: seconds + 60,
    }
    const sign = (payload: Record<string, unknown>): Promise<string> =>
      new SignJWT(payload).setProtectedHeader({ alg: 'EdDSA' }).sign(privateKey)
    expect(await verify(await sign(all))).toEqual(claims)
    const { [missing]: _, ...rest } = all
    expect(await verify(await sign(rest))).toBeNull()
  })

  it('are refused when a name in them could not be put on record', async () => {
    for (const name of ['', 'x'.repeat(257)]) {
      const token = await signServiceToken({ ...claims, tenantId: name }, privateKey, nowMs)
      expect(await verify(token)).toBeNull()
    }
  })
})

describe('pool tokens', () => {
  it('hold for their pool and purpose, for a minute', async () => {
    const token = await signPoolToken({ pool: 'local', scope: 'records' }, privateKey, nowMs)
    const holds = (changes: object): Promise<boolean> =>
      verifyPoolToken(token, publicKey, { pool: 'local', scope: 'records', nowMs, ...changes })
    expect(await holds({})).toBe(true)
    expect(await holds({ nowMs: nowMs + 60_000 })).toBe(true)
    expect(await holds({ nowMs: nowMs + 66_000 })).toBe(false)
    expect(await holds({ pool: 'other' })).toBe(false)
    expect(await holds({ scope: 'capacity' })).toBe(false)
  })

  it('are no request’s tokens, nor a request’s tokens one of them', async () => {
    const pool = { pool: 'local', scope: 'records' } as const
    expect(await verify(await signPoolToken(pool, privateKey, nowMs))).toBeNull()
    const foreign = await signPoolToken(pool, foreignKey, nowMs)
    const request = await signServiceToken(claims, privateKey, nowMs)
    for (const token of [request, foreign, '']) {
      expect(await verifyPoolToken(token, publicKey, { ...pool, nowMs })).toBe(false)
    }
  })
})
