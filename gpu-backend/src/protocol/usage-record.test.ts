import type { CryptoKey } from 'jose'
import { CompactSign } from 'jose'
import { beforeAll, describe, expect, it } from 'vitest'
import { generateKeyJwks, importPrivateKey, importPublicKey } from './keys.ts'
import {
  signUsageRecord,
  usageRecordAckSchema,
  usageRecordBatchSchema,
  verifyUsageRecord,
  type UsageRecord,
} from './usage-record.ts'

const record: UsageRecord = {
  version: 1,
  requestId: 'req_1',
  tenantId: 't_1',
  keyId: 'k_1',
  pool: 'local',
  backendId: 'local-1',
  model: 'deepseek-v4-toy',
  checkpointHash: 'c0ffee',
  promptTokens: 10,
  cachedTokens: 0,
  completionTokens: 5,
  reasoningTokens: 3,
  deliveredTokens: 4,
  outcome: 'cancelled',
  acceptedAtMs: 1_800_000_000_000,
  firstTokenAtMs: null,
  finishedAtMs: 1_800_000_000_500,
}

let privateKey: CryptoKey
let publicKey: CryptoKey

beforeAll(async () => {
  const jwks = await generateKeyJwks()
  privateKey = await importPrivateKey(JSON.stringify(jwks.privateJwk))
  publicKey = await importPublicKey(JSON.stringify(jwks.publicJwk))
})

/** Signs anything, as a backend of another version or with a bug might. */
function sign(content: unknown, header: object = { typ: 'sluice-usage-record' }): Promise<string> {
  return new CompactSign(new TextEncoder().encode(JSON.stringify(content)))
    .setProtectedHeader({ alg: 'EdDSA', ...header })
    .sign(privateKey)
}

describe('usage records', () => {
  it('arrive as they were signed', async () => {
    const jws = await signUsageRecord(record, privateKey)
    expect(await verifyUsageRecord(jws, publicKey)).toEqual(record)
  })

  it('are refused when they were changed or signed by someone else', async () => {
    const jws = await signUsageRecord(record, privateKey)
    const [header = '', , signature = ''] = jws.split('.')
    const cheaper = Buffer.from(JSON.stringify({ ...record, completionTokens: 4 }))
    expect(
      await verifyUsageRecord(`${header}.${cheaper.toString('base64url')}.${signature}`, publicKey),
    ).toBeNull()
    const other = await generateKeyJwks()
    const otherKey = await importPublicKey(JSON.stringify(other.publicJwk))
    expect(await verifyUsageRecord(jws, otherKey)).toBeNull()
    expect(await verifyUsageRecord('not a record', publicKey)).toBeNull()
  })

  it('are not to be confused with anything else the key has signed', async () => {
    expect(await verifyUsageRecord(await sign(record), publicKey)).toEqual(record)
    expect(await verifyUsageRecord(await sign(record, { typ: 'JWT' }), publicKey)).toBeNull()
    expect(await verifyUsageRecord(await sign(record, {}), publicKey)).toBeNull()
  })

  it.each([
    ['more cached than prompted', { cachedTokens: 11 }],
    ['more reasoning than output', { reasoningTokens: 6 }],
    ['more delivered than made', { deliveredTokens: 6 }],
    ['a negative count', { promptTokens: -1 }],
    ['half a token', { completionTokens: 5.5 }],
    ['an unknown outcome', { outcome: 'lost' }],
    ['a nameless tenant', { tenantId: '' }],
    ['another version', { version: 2 }],
  ])('are refused with %s', async (_, changes) => {
    expect(await verifyUsageRecord(await sign({ ...record, ...changes }), publicKey)).toBeNull()
  })

  it('travel in batches of 1 to 256 and are answered by index', () => {
    const fits = (count: number): boolean =>
      usageRecordBatchSchema.safeParse({ records: Array.from({ length: count }, () => 'x') })
        .success
    expect([fits(0), fits(1), fits(256), fits(257)]).toEqual([false, true, true, false])
    const ack = { acknowledged: [0, 2], rejected: [{ index: 1, reason: 'forged' }] }
    expect(usageRecordAckSchema.parse(ack)).toEqual(ack)
    expect(usageRecordAckSchema.safeParse({ acknowledged: [-1], rejected: [] }).success).toBe(false)
  })
})
