import { beforeAll, describe, expect, it } from 'vitest'
import type { CryptoKey } from 'jose'
import { SignJWT } from 'jose'
import {
  parseCapacityReport,
  reportReplySchema,
  reportsPath,
  signReportToken,
  verifyReportToken,
  type CapacityReport,
} from './capacity-report.ts'
import { generateKeyJwks, importPrivateKey, importPublicKey } from './keys.ts'
import { signUsageRecord, verifyUsageRecord } from './usage-record.ts'

const claims = { pool: 'p/1', backendId: 'b', incarnation: 'i' }
const nowMs = 1_795_000_000_500

let privateKey: CryptoKey
let publicKey: CryptoKey

beforeAll(async () => {
  const pair = await generateKeyJwks()
  privateKey = await importPrivateKey(JSON.stringify(pair.privateJwk))
  publicKey = await importPublicKey(JSON.stringify(pair.publicJwk))
})

const report: CapacityReport = {
  version: 1,
  ...claims,
  seq: 1,
  atMs: nowMs,
  freeCacheTokens: 1024,
  cacheTokensMax: 4096,
  running: 2,
  waiting: 1,
  waitingTokens: 300,
  prefillTokensPerSecond: 812.5,
  decodeTokensPerSecond: 151.25,
  draining: false,
  models: ['deepseek-v4-toy'],
  progress: [{ requestId: 'r', promptTokens: 12, cachedTokens: 4, completionTokens: 3 }],
}

describe('a report token', () => {
  it('says who reports, to whoever has the record key’s public half', async () => {
    const token = await signReportToken(claims, privateKey, nowMs)
    expect(await verifyReportToken(token, publicKey, { pool: 'p/1', nowMs })).toEqual(claims)
  })

  it('is good for a minute, for its pool, under its key', async () => {
    const token = await signReportToken(claims, privateKey, nowMs)
    const other = await generateKeyJwks()
    const otherKey = await importPublicKey(JSON.stringify(other.publicJwk))
    const at = (ms: number) => verifyReportToken(token, publicKey, { pool: 'p/1', nowMs: ms })
    expect(await at(nowMs + 59_000)).toEqual(claims)
    expect(await at(nowMs + 66_000)).toBeNull()
    expect(await at(nowMs - 10_000)).toBeNull()
    expect(await verifyReportToken(token, publicKey, { pool: 'p/2', nowMs })).toBeNull()
    expect(await verifyReportToken(token, otherKey, { pool: 'p/1', nowMs })).toBeNull()
  })

  it('is no usage record, nor a record or a plain token one', async () => {
    const token = await signReportToken(claims, privateKey, nowMs)
    expect(await verifyUsageRecord(token, publicKey)).toBeNull()
    const record = await signUsageRecord(
      {
        version: 1,
        requestId: 'r',
        tenantId: 't',
        keyId: 'k',
        pool: 'p/1',
        backendId: 'b',
        model: 'm',
        checkpointHash: 'c',
        promptTokens: 1,
        cachedTokens: 0,
        completionTokens: 0,
        reasoningTokens: 0,
        deliveredTokens: 0,
        outcome: 'stop',
        acceptedAtMs: 1,
        firstTokenAtMs: null,
        finishedAtMs: 1,
      },
      privateKey,
    )
    const untyped = await new SignJWT({ pool: 'p/1', inc: 'i' })
      .setProtectedHeader({ alg: 'EdDSA' })
      .setIssuer('sluice-backend')
      .setAudience('sluice-edge')
      .setSubject('b')
      .setIssuedAt(Math.floor(nowMs / 1000))
      .setExpirationTime(Math.floor(nowMs / 1000) + 60)
      .sign(privateKey)
    for (const forged of [record, untyped, '', 'a.b.c']) {
      expect(await verifyReportToken(forged, publicKey, { pool: 'p/1', nowMs })).toBeNull()
    }
  })
})

describe('a report', () => {
  it('survives the wire', () => {
    expect(parseCapacityReport(JSON.stringify(report), claims)).toEqual(report)
  })

  it.each([
    ['no JSON', '{'],
    ['another backend', JSON.stringify({ ...report, backendId: 'c' })],
    ['an earlier process', JSON.stringify({ ...report, incarnation: 'j' })],
    ['another pool', JSON.stringify({ ...report, pool: 'p' })],
    ['a negative count', JSON.stringify({ ...report, running: -1 })],
    ['seq 0', JSON.stringify({ ...report, seq: 0 })],
    ['a rate that is no number', JSON.stringify({ ...report, decodeTokensPerSecond: null })],
    ['another version', JSON.stringify({ ...report, version: 2 })],
  ])('is refused when it is of %s', (_, text) => {
    expect(parseCapacityReport(text, claims)).toBeNull()
  })

  it('goes to its pool’s own address', () => {
    expect(reportsPath('p/1')).toBe('/internal/pools/p%2F1/reports')
  })
})

describe('a reply', () => {
  it('acknowledges or cancels', () => {
    for (const reply of [
      { kind: 'ack', seq: 3 },
      { kind: 'cancel', requestId: 'r' },
    ]) {
      expect(reportReplySchema.parse(reply)).toEqual(reply)
    }
    expect(reportReplySchema.safeParse({ kind: 'restart' }).success).toBe(false)
  })
})
