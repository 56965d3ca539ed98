import { abortAllDurableObjects, evictDurableObject, runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { describe, expect, it } from 'vitest'
import { hashSecret, newApiKey, newTenantId } from '../../edge/src/keys/api-key.ts'
import { KEYS_MAX } from '../../edge/src/objects/tenant/keys-table.ts'
import type { Tenant } from '../../edge/src/objects/tenant/tenant.ts'
import { makeLimit } from '../../edge/src/objects/tenant/terms.ts'
import { MODEL, NOON_MS } from './edge-app.ts'
import { usageRecord } from './usage-records-of.ts'

const DAY = '2096-11-23'
const ALL = {
  from: '2096-01-01',
  to: '2096-12-31',
  filter: {},
  groupBy: ['day', 'project', 'key', 'model'] as const,
  after: null,
  limit: 100,
}

function randomBytes(lengthBytes: number): Uint8Array {
  return crypto.getRandomValues(new Uint8Array(lengthBytes))
}

function stubOf(tenantId: string): DurableObjectStub<Tenant> {
  return env.TENANT.get(env.TENANT.idFromName(tenantId))
}

const EVERYTHING = { projectId: 'default', models: null, routes: null }

/** What a key is made of, apart from what a test cares about. */
const ANY_KEY = {
  name: '',
  secretHash: new Uint8Array(32),
  lastFour: '',
  access: EVERYTHING,
  createdAtMs: NOON_MS,
  expiresAtMs: null,
}

async function statusOf(
  stub: DurableObjectStub<Tenant>,
  keyId: string,
  secretHash: Uint8Array,
): Promise<string> {
  return (await stub.verifyKey(keyId, secretHash, NOON_MS)).status
}

interface Fixture {
  readonly tenantId: string
  readonly keyId: string
  readonly secretHash: Uint8Array
  readonly stub: () => DurableObjectStub<Tenant>
}

/** A tenant with one key. A stub breaks with its object, so tests ask for a fresh one. */
async function makeTenant(): Promise<Fixture> {
  const tenantId = newTenantId(randomBytes)
  const key = newApiKey(tenantId, randomBytes)
  const secretHash = await hashSecret(key.secret)
  const stub = stubOf(tenantId)
  await stub.createTenant({ tenantId, name: 'Ada', createdAtMs: NOON_MS })
  const { keyId } = key
  const created = { ...ANY_KEY, keyId, name: 'laptop', secretHash, lastFour: 'wxyz' }
  expect(await stub.createKey(created)).toBe('created')
  return { tenantId, keyId, secretHash, stub: () => stubOf(tenantId) }
}

describe('keys', () => {
  it('verifies the secret it was made with and no other', async () => {
    const { keyId, secretHash, stub } = await makeTenant()
    const other = await hashSecret('another secret')

    expect(await statusOf(stub(), keyId, secretHash)).toBe('valid')
    expect(await statusOf(stub(), keyId, other)).toBe('unknown')
    expect(await statusOf(stub(), `${keyId.slice(0, -1)}2`, secretHash)).toBe('unknown')
    expect(await statusOf(stub(), keyId, new Uint8Array(32))).toBe('unknown')
    expect(await statusOf(stub(), keyId, new Uint8Array(0))).toBe('unknown')
  })

  it('refuses the all-zero hash that stands in for a key which does not exist', async () => {
    const { stub } = await makeTenant()
    expect(await statusOf(stub(), 'aaaaaaaaaaaaaaaabbbbbbbb', new Uint8Array(32))).toBe('unknown')
  })

  it('keeps a key revoked from the first time on, across eviction', async () => {
    const { keyId, secretHash, stub } = await makeTenant()

    expect(await stub().revokeKey(keyId, NOON_MS + 1)).toBe(NOON_MS + 1)
    await evictDurableObject(stub())
    expect(await stub().revokeKey(keyId, NOON_MS + 2)).toBe(NOON_MS + 1)
    expect(await statusOf(stub(), keyId, secretHash)).toBe('revoked')
    expect(await stub().listKeys()).toEqual([
      {
        keyId,
        name: 'laptop',
        lastFour: 'wxyz',
        access: EVERYTHING,
        createdAtMs: NOON_MS,
        expiresAtMs: null,
        revokedAtMs: NOON_MS + 1,
        lastUsedAtMs: null,
      },
    ])
  })

  it('calls a revoked key with the wrong secret unknown, like any other wrong guess', async () => {
    const { keyId, stub } = await makeTenant()
    await stub().revokeKey(keyId, NOON_MS)
    expect(await statusOf(stub(), keyId, await hashSecret('guess'))).toBe('unknown')
  })

  it('finds no key to revoke where there is none', async () => {
    const { stub } = await makeTenant()
    expect(await stub().revokeKey('aaaaaaaaaaaaaaaabbbbbbbb', NOON_MS)).toBeNull()
  })

  it('makes neither a tenant nor a key twice', async () => {
    const { tenantId, keyId, secretHash, stub } = await makeTenant()
    const tenant = { tenantId, name: 'Eve', createdAtMs: NOON_MS }

    expect(await stub().createTenant(tenant)).toBe('exists')
    expect(await stub().createKey({ ...ANY_KEY, keyId, name: 'again' })).toBe('exists')
    expect(await statusOf(stub(), keyId, secretHash)).toBe('valid')
  })

  it('stops at its ceiling of keys', async () => {
    const { tenantId, stub } = await makeTenant()
    await runInDurableObject(stub(), async (instance: Tenant) => {
      for (let made = 1; made < KEYS_MAX; made += 1) {
        const { keyId } = newApiKey(tenantId, randomBytes)
        instance.createKey({ ...ANY_KEY, keyId })
      }
    })
    const { keyId } = newApiKey(tenantId, randomBytes)
    expect(await stub().createKey({ ...ANY_KEY, keyId })).toBe('too_many_keys')
  })

  it('answers for a tenant that was never made, and stores nothing', async () => {
    const tenantId = newTenantId(randomBytes)
    const key = { ...ANY_KEY, keyId: `${tenantId}bbbbbbbb` }
    const stub = stubOf(tenantId)

    expect(await statusOf(stub, key.keyId, new Uint8Array(32))).toBe('unknown')
    expect(await stub.createKey(key)).toBe('tenant_unknown')
    expect(await stub.revokeKey(key.keyId, NOON_MS)).toBeNull()
    expect(await stub.listKeys()).toBeNull()
    expect(await stub.usage(ALL)).toBeNull()
    const tables = await runInDurableObject(stub, (_instance: Tenant, state) =>
      state.storage.sql.exec("SELECT name FROM sqlite_master WHERE type = 'table'").toArray(),
    )
    expect(tables).toEqual([])
  })
})

/** A reservation for the request that `usageRecord` is of, unless said otherwise. */
async function reserve(
  { keyId, stub }: Fixture,
  over: { requestId?: string; model?: string } = {},
): Promise<void> {
  const { requestId = 'req_1', model = MODEL } = over
  const scope = { projectId: 'default', keyId, model }
  const size = { bodyBytes: 400, outputTokensMax: 20, maxCostPico: null, maxWaitMs: 0 }
  const answer = await stub().admit({ requestId, scope, ...size }, null, NOON_MS)
  expect(answer.status).toBe('admitted')
}

describe('waiting', () => {
  const size = { bodyBytes: 400, outputTokensMax: 20, maxCostPico: null, maxWaitMs: 30_000 }

  it('is one call, however often it is made, and ends for all when a transaction breaks', async () => {
    const tenant = await makeTenant()
    const { keyId, stub } = tenant
    const limit = makeLimit({ dimension: 'requests', perMinute: 6, burstMs: 10_000 }, {})
    await stub().changeTerms({ limits: [limit] })
    await reserve(tenant)
    const scope = { projectId: 'default', keyId, model: MODEL }
    const ask = async (): Promise<unknown> =>
      stub()
        .admit({ requestId: 'req_2', scope, ...size }, null, NOON_MS)
        .catch((cause: unknown) => cause)
    const waiting = Promise.all([ask(), ask()])
    await expect.poll(async () => (await stub().decision('req_2'))?.outcome).toBe('waiting')
    expect((await stub().account())?.waiting).toBe(1)
    await runInDurableObject(stub(), (instance: Tenant, state) => {
      state.storage.sql.exec('DROP TABLE reservations')
      expect(() => instance.progress([], NOON_MS)).toThrow('reservations')
    })
    for (const cause of await waiting) expect(cause).toBeInstanceOf(Error)
    expect((await stub().account())?.waiting).toBe(0)
  })
})

describe('usage', () => {
  const counts = {
    requests: 1,
    promptTokens: 100,
    cachedTokens: 64,
    completionTokens: 20,
    amountPico: 12_432_000n,
  }

  it('counts a record once, however often it arrives and whatever happens in between', async () => {
    const tenant = await makeTenant()
    const { tenantId, keyId, stub } = tenant
    const record = usageRecord({ tenantId, keyId })
    await reserve(tenant)

    expect(await stub().applyUsageRecords([record, record], NOON_MS)).toEqual(['applied', 'exists'])
    await evictDurableObject(stub())
    expect(await stub().applyUsageRecords([record], NOON_MS)).toEqual(['exists'])
    await abortAllDurableObjects()
    expect(await stub().applyUsageRecords([record], NOON_MS)).toEqual(['exists'])

    expect(await stub().usage(ALL)).toEqual({
      totals: counts,
      rows: [
        { of: { day: DAY, project: 'default', key: keyId, model: record.model }, sums: counts },
      ],
      hasMore: false,
      parkedRecords: 0,
    })
  })

  it('counts each record once when many arrive at the same time', async () => {
    const tenant = await makeTenant()
    const { tenantId, keyId, stub } = tenant
    const records = Array.from({ length: 20 }, (_, index) =>
      usageRecord({ tenantId, keyId, requestId: `req_${index}` }),
    )
    for (const { requestId } of records) await reserve(tenant, { requestId })
    // Three senders with the same records, each in its own order, one record a call.
    const orders = [records, records.toReversed(), [...records.slice(7), ...records.slice(0, 7)]]
    const statuses = await Promise.all(
      orders.flat().map((record) => stub().applyUsageRecords([record], NOON_MS)),
    )

    expect(statuses.flat().filter((status) => status === 'applied')).toHaveLength(20)
    expect(statuses.flat().filter((status) => status === 'exists')).toHaveLength(40)
    expect((await stub().usage(ALL))?.totals).toEqual({
      requests: 20,
      promptTokens: 2000,
      cachedTokens: 1280,
      completionTokens: 400,
      amountPico: 20n * counts.amountPico,
    })
  })

  it('reports a second, different record under one request id and keeps the first', async () => {
    const tenant = await makeTenant()
    const { tenantId, keyId, stub } = tenant
    await reserve(tenant)
    const first = usageRecord({ tenantId, keyId })
    const second = usageRecord({ tenantId, keyId, completionTokens: 21, deliveredTokens: 21 })

    expect(await stub().applyUsageRecords([first], NOON_MS)).toEqual(['applied'])
    expect(await stub().applyUsageRecords([second], NOON_MS)).toEqual(['conflict'])
    expect((await stub().usage(ALL))?.totals).toEqual(counts)
  })

  it('tells a repeated record from a different one whatever order its fields come in', async () => {
    const { tenantId, keyId, stub } = await makeTenant()
    const record = usageRecord({ tenantId, keyId })
    const shuffled = Object.fromEntries(Object.entries(record).toReversed()) as typeof record

    await stub().applyUsageRecords([record], NOON_MS)
    expect(await stub().applyUsageRecords([shuffled], NOON_MS)).toEqual(['exists'])
  })

  it('keeps a record of an unknown key aside: stored, shown, not counted', async () => {
    const { tenantId, stub } = await makeTenant()
    const record = usageRecord({ tenantId, keyId: `${tenantId}zzzzzzzz` })

    expect(await stub().applyUsageRecords([record], NOON_MS)).toEqual(['parked'])
    expect(await stub().applyUsageRecords([record], NOON_MS)).toEqual(['exists'])
    const report = await stub().usage(ALL)
    expect(report?.parkedRecords).toBe(1)
    expect(report?.rows).toEqual([])
  })

  it('keeps a record for a tenant that was never made', async () => {
    const tenantId = newTenantId(randomBytes)
    const record = usageRecord({ tenantId, keyId: `${tenantId}bbbbbbbb` })

    expect(await stubOf(tenantId).applyUsageRecords([record], NOON_MS)).toEqual(['parked'])
    await evictDurableObject(stubOf(tenantId))
    const stored = await runInDurableObject(stubOf(tenantId), (_instance: Tenant, state) =>
      state.storage.sql.exec('SELECT request_id, parked FROM usage_records').toArray(),
    )
    expect(stored).toEqual([{ request_id: 'req_1', parked: 1 }])
    expect(await stubOf(tenantId).usage(ALL)).toBeNull()
  })

  it('still counts what a key used before it was revoked', async () => {
    const tenant = await makeTenant()
    const { tenantId, keyId, stub } = tenant
    await reserve(tenant)
    await stub().revokeKey(keyId, NOON_MS)
    const record = usageRecord({ tenantId, keyId })
    expect(await stub().applyUsageRecords([record], NOON_MS)).toEqual(['applied'])
  })

  it('applies a batch whole or not at all', async () => {
    const tenant = await makeTenant()
    const { tenantId, keyId, stub } = tenant
    await reserve(tenant)
    await reserve(tenant, { requestId: 'req_2' })
    const good = usageRecord({ tenantId, keyId })
    // The core refuses a fraction: a bug upstream, after the door has been passed.
    const bad = usageRecord({ tenantId, keyId, requestId: 'req_2', promptTokens: 100.5 })

    await runInDurableObject(stub(), (instance: Tenant) => {
      expect(() => instance.applyUsageRecords([good, bad], NOON_MS)).toThrow()
    })
    expect((await stub().usage(ALL))?.totals.requests).toBe(0)
    expect(await stub().applyUsageRecords([good], NOON_MS)).toEqual(['applied'])
  })

  it('settles a record that no reservation came for, once it has waited', async () => {
    const { tenantId, keyId, stub } = await makeTenant()
    const record = usageRecord({ tenantId, keyId })
    expect(await stub().applyUsageRecords([record], NOON_MS)).toEqual(['waiting'])
    expect((await stub().usage(ALL))?.totals.requests).toBe(0)
    await evictDurableObject(stub())
    await stub().reconcile(0, NOON_MS + 60_000)
    expect((await stub().usage(ALL))?.totals).toEqual(counts)
    expect(await stub().applyUsageRecords([record], NOON_MS)).toEqual(['exists'])
  })

  it('answers by day, key and model, and sums what it answers', async () => {
    const { tenantId, keyId, stub } = await makeTenant()
    const day = 86_400_000
    const variants = [
      { requestId: 'a', acceptedAtMs: NOON_MS - day },
      { requestId: 'b', model: 'deepseek-v4-pro' },
      { requestId: 'c' },
      { requestId: 'd' },
    ]
    const records = variants.map((over) => usageRecord({ tenantId, keyId, ...over }))
    await stub().applyUsageRecords(records, NOON_MS)
    await stub().reconcile(0, NOON_MS + 60_000)

    const read = async (query: object): Promise<unknown> =>
      (await stub().usage({ ...ALL, ...query }))?.rows.map(({ of, sums }) => [
        of.day,
        of.model,
        sums.requests,
      ])
    expect(await read({})).toEqual([
      ['2096-11-22', 'deepseek-v4-toy', 1],
      [DAY, 'deepseek-v4-pro', 1],
      [DAY, 'deepseek-v4-toy', 2],
    ])
    expect(await read({ groupBy: ['model'] })).toEqual([
      [undefined, 'deepseek-v4-pro', 1],
      [undefined, 'deepseek-v4-toy', 3],
    ])
    const page = { groupBy: ['model'], limit: 1 }
    expect(await read(page)).toEqual([[undefined, 'deepseek-v4-pro', 1]])
    expect(await read({ ...page, after: ['deepseek-v4-pro'] })).toEqual([
      [undefined, 'deepseek-v4-toy', 3],
    ])
    const totals = async (query: object): Promise<number | undefined> =>
      (await stub().usage({ ...ALL, ...query }))?.totals.requests
    expect(await totals({})).toBe(4)
    expect(await totals({ from: DAY })).toBe(3)
    expect(await totals({ to: '2096-11-22' })).toBe(1)
    expect(await totals({ filter: { model: 'deepseek-v4-pro' } })).toBe(1)
    expect(await totals({ filter: { key: keyId } })).toBe(4)
    expect(await totals({ filter: { key: `${tenantId}zzzzzzzz` } })).toBe(0)
  })
})
