import { describe, expect, it } from 'vitest'
import { importPrivateKey } from '#protocol/keys.ts'
import { signUsageRecord, usageRecordAckSchema } from '#protocol/usage-record.ts'
import type { UsageRecord } from '#protocol/usage-record.ts'
import { parseApiKey } from '../../edge/src/keys/api-key.ts'
import { bearer, makeEdge, poolsOf } from './edge-app.ts'
import type { KeyPair, TestEdge } from './edge-app.ts'
import { usageRecord } from './usage-records-of.ts'

const PATH = '/internal/usage-records'

async function sign(record: UsageRecord, keys: KeyPair): Promise<string> {
  return signUsageRecord(record, await importPrivateKey(JSON.stringify(keys.privateJwk)))
}

async function push(edge: TestEdge, records: readonly string[]): Promise<unknown> {
  const body = JSON.stringify({ records })
  const response = await edge.request(PATH, { method: 'POST', body })
  expect(response.status).toBe(200)
  return usageRecordAckSchema.parse(await response.json())
}

/** Nothing was reserved in these tests: the records are counted once they have waited for that. */
async function totalsOf(edge: TestEdge, key: string): Promise<unknown> {
  edge.clock.nowMs += 60_000
  const tenantId = parseApiKey(key)?.tenantId ?? ''
  await edge.admin(`/tenants/${tenantId}/reconcile`, { method: 'POST', body: '{}' })
  const response = await edge.request('/v1/usage', { headers: bearer(key) })
  return (await response.json<{ totals: unknown }>()).totals
}

describe('happy', () => {
  it('counts records of several tenants, and acknowledges repeats like first arrivals', async () => {
    const edge = await makeEdge()
    const [ada, bob] = [await edge.createTenant(), await edge.createTenant()]
    const [adaKey, bobKey] = [await edge.createKey(ada), await edge.createKey(bob)]
    const of = {
      ada: { tenantId: ada, keyId: adaKey.keyId },
      bob: { tenantId: bob, keyId: bobKey.keyId },
    }
    const records = [
      usageRecord({ ...of.ada, requestId: 'req_1' }),
      usageRecord({ ...of.bob, requestId: 'req_2', promptTokens: 1000 }),
      usageRecord({ ...of.ada, requestId: 'req_3' }),
    ]
    const signed = await Promise.all(records.map((record) => sign(record, edge.recordKeys)))

    expect(await push(edge, signed)).toEqual({ acknowledged: [0, 1, 2], rejected: [] })
    expect(await push(edge, signed)).toEqual({ acknowledged: [0, 1, 2], rejected: [] })
    expect(await totalsOf(edge, adaKey.key)).toMatchObject({ requests: 2, prompt_tokens: 200 })
    expect(await totalsOf(edge, bobKey.key)).toMatchObject({ requests: 1, prompt_tokens: 1000 })
  })

  it('acknowledges a record it must hold back, and tells the log', async () => {
    const edge = await makeEdge()
    const tenantId = await edge.createTenant()
    const record = usageRecord({ tenantId, keyId: `${tenantId}zzzzzzzz` })
    const signed = await sign(record, edge.recordKeys)
    edge.logs.length = 0

    expect(await push(edge, [signed])).toEqual({ acknowledged: [0], rejected: [] })
    expect(JSON.parse(edge.logs[0] ?? '')).toEqual({
      event: 'usage_record_parked',
      request_id: 'req_1',
      tenant_id: tenantId,
      pool: 'pool-a',
    })
  })
})

describe('errors', () => {
  it('rejects what can never be applied, by index, and applies the rest', async () => {
    const edge = await makeEdge()
    const stranger = (await makeEdge()).recordKeys
    const tenantId = await edge.createTenant()
    const { key, keyId } = await edge.createKey(tenantId)
    const good = usageRecord({ tenantId, keyId })
    const batch = [
      await sign({ ...good, pool: 'pool-b' }, edge.recordKeys),
      await sign(good, edge.recordKeys),
      await sign({ ...good, requestId: 'req_forged' }, stranger),
      await sign({ ...good, completionTokens: 999 }, edge.recordKeys),
      'not a signature at all',
    ]
    expect(await push(edge, batch)).toEqual({
      acknowledged: [1],
      rejected: [
        { index: 0, reason: 'signature_invalid' },
        { index: 2, reason: 'signature_invalid' },
        { index: 3, reason: 'conflict' },
        { index: 4, reason: 'signature_invalid' },
      ],
    })
    expect(await totalsOf(edge, key)).toMatchObject({ requests: 1, completion_tokens: 20 })
  })

  it('neither acknowledges nor rejects what it could not hand over', async () => {
    const down = {
      idFromName: (name: string) => name,
      get: () => ({ applyUsageRecords: async () => Promise.reject(new Error('overloaded')) }),
    }
    const edge = await makeEdge({ env: { TENANT: down as never } })
    const signed = await sign(usageRecord({}), edge.recordKeys)
    expect(await push(edge, [signed])).toEqual({ acknowledged: [], rejected: [] })
  })

  it.each([
    '',
    '[]',
    '{"records":[]}',
    '{"records":[7]}',
    JSON.stringify({ records: Array(257).fill('x') }),
  ])('refuses a body that is no batch: %.40s', async (body) => {
    const edge = await makeEdge()
    const response = await edge.request(PATH, { method: 'POST', body })
    expect(response.status).toBe(400)
  })

  it('refuses a batch over its size', async () => {
    const edge = await makeEdge()
    const body = 'x'.repeat(1024 * 1024 + 1)
    expect((await edge.request(PATH, { method: 'POST', body })).status).toBe(413)
  })

  it('takes POST alone, and nothing else lives beside it', async () => {
    const edge = await makeEdge()
    expect((await edge.request(PATH)).status).toBe(405)
    expect((await edge.request('/internal/other')).status).toBe(404)
  })
})

describe('security', () => {
  it('takes a record of each pool under that pool’s key only', async () => {
    const [a, b] = [(await makeEdge()).recordKeys, (await makeEdge()).recordKeys]
    const pools = [a, b].map(({ publicJwk }, index) => {
      const [pool] = JSON.parse(poolsOf(publicJwk)) as Record<string, unknown>[]
      return { ...pool, id: index === 0 ? 'pool-a' : 'pool-b' }
    })
    const edge = await makeEdge({ env: { POOLS: JSON.stringify(pools) } })
    const tenantId = await edge.createTenant()
    const { keyId } = await edge.createKey(tenantId)
    const record = (pool: string, requestId: string): UsageRecord =>
      usageRecord({ tenantId, keyId, pool, requestId })
    const batch = [
      await sign(record('pool-a', 'req_1'), a),
      await sign(record('pool-b', 'req_2'), b),
      await sign(record('pool-b', 'req_3'), a),
    ]
    expect(await push(edge, batch)).toEqual({
      acknowledged: [0, 1],
      rejected: [{ index: 2, reason: 'signature_invalid' }],
    })
  })
})
