import { afterAll, beforeAll, expect, it } from 'vitest'
import { importPrivateKey } from '#protocol/keys.ts'
import { signUsageRecord } from '#protocol/usage-record.ts'
import {
  createEdgeKey,
  EDGE_MODEL,
  EDGE_POOL,
  makeEdgeSecrets,
  startEdgeUnderTest,
} from '../support/edge.ts'
import type { EdgeSecrets, EdgeUnderTest } from '../support/edge.ts'
import { makeScratch } from '../support/scratch.ts'
import type { Scratch } from '../support/scratch.ts'

let scratch: Scratch
let secrets: EdgeSecrets

beforeAll(async () => {
  scratch = await makeScratch('edge-restart')
  secrets = await makeEdgeSecrets()
})

afterAll(() => scratch.remove())

function start(): Promise<EdgeUnderTest> {
  const backendUrl = 'http://127.0.0.1:9'
  return startEdgeUnderTest({ backendUrl, secrets, stateDir: scratch.path })
}

/** A request that was reserved for and that no backend could be reached for; gives its id. */
async function reserve(edge: EdgeUnderTest, key: string): Promise<string> {
  const response = await fetch(`${edge.url}/v1/chat/completions`, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}` },
    body: JSON.stringify({ model: EDGE_MODEL, messages: [{ role: 'user', content: 'Hello' }] }),
  })
  expect(response.status).toBe(503)
  return response.headers.get('x-request-id') ?? ''
}

interface RecordOf {
  readonly requestId: string
  readonly tenantId: string
  readonly keyId: string
}

async function signedRecord({ requestId, tenantId, keyId }: RecordOf): Promise<string> {
  const nowMs = Date.now()
  const record = {
    version: 1 as const,
    requestId,
    tenantId,
    keyId,
    pool: EDGE_POOL,
    backendId: 'backend-1',
    model: EDGE_MODEL,
    checkpointHash: 'cafe',
    promptTokens: 100,
    cachedTokens: 0,
    completionTokens: 20,
    reasoningTokens: 0,
    deliveredTokens: 20,
    outcome: 'stop' as const,
    acceptedAtMs: nowMs,
    firstTokenAtMs: nowMs,
    finishedAtMs: nowMs,
  }
  return signUsageRecord(record, await importPrivateKey(JSON.stringify(secrets.record)))
}

async function push(edge: EdgeUnderTest, record: string): Promise<unknown> {
  const body = JSON.stringify({ records: [record] })
  return (await fetch(`${edge.url}/internal/usage-records`, { method: 'POST', body })).json()
}

function usage(edge: EdgeUnderTest, key: string): Promise<Response> {
  return fetch(`${edge.url}/v1/usage`, { headers: { authorization: `Bearer ${key}` } })
}

it('keeps tenants, keys, revocations and counts across a restart of the runtime', async () => {
  const before = await start()
  const { key, keyId, tenantId } = await createEdgeKey(before)
  const second = await before.admin(`/tenants/${tenantId}/keys`, { name: 'second' })
  const requestId = await reserve(before, key)
  const record = await signedRecord({ requestId, tenantId, keyId })
  expect(await push(before, record)).toEqual({ acknowledged: [0], rejected: [] })
  await fetch(`${before.url}/admin/tenants/${tenantId}/keys/${String(second['key_id'])}`, {
    method: 'DELETE',
    headers: { authorization: `Bearer ${secrets.adminToken}` },
  })
  await before.close()

  const after = await start()
  try {
    // The acknowledgement may have been lost with the connection, so the record comes again.
    expect(await push(after, record)).toEqual({ acknowledged: [0], rejected: [] })
    const answer = await usage(after, key)
    expect(await answer.json()).toMatchObject({ totals: { requests: 1, prompt_tokens: 100 } })
    expect((await usage(after, String(second['key']))).status).toBe(401)
    const listed = (await after.admin('/tenants'))['data']
    expect(listed).toEqual([{ tenant_id: tenantId, name: 'test', created_at: expect.any(Number) }])
  } finally {
    await after.close()
  }
})
