import { describe, expect, it } from 'vitest'
import { generateKeyJwks } from '#protocol/keys.ts'
import { parseEnv } from '../env.ts'
import type { Env } from '../env.ts'
import { askBackends } from './record-lookup.ts'

const { publicJwk, privateJwk } = await generateKeyJwks()
const OWN = {
  id: 'own',
  url: 'http://balancer.test',
  backendUrls: ['http://gpu-1.test', 'http://gpu-2.test'],
  models: ['m'],
  recordPublicKey: publicJwk,
}
const FOREIGN = { kind: 'openai', id: 'foreign', url: 'http://vllm.test', models: ['m'] }

/** Asks with each host answering as told; one that is not told is down. */
async function ask(
  pools: readonly object[],
  statuses: Readonly<Record<string, string>>,
  heardOf = false,
) {
  const settings = await parseEnv({
    POOLS: JSON.stringify(pools),
    EDGE_SIGNING_KEY: JSON.stringify(privateJwk),
    ADMIN_TOKEN: 'x'.repeat(32),
  } as Env)
  const asked: string[] = []
  const answer = await askBackends(
    { requestId: 'req_1', model: 'm', heardOf },
    {
      settings,
      now: () => 0,
      fetch: async (url) => {
        const { host, pathname } = new URL(url)
        asked.push(`${host}${pathname}`)
        const status = statuses[host]
        if (status === undefined) throw new Error('Network connection lost.')
        return Response.json({ status })
      },
    },
  )
  return { answer, asked }
}

describe('askBackends', () => {
  it('asks every backend behind one address, not the address', async () => {
    const { answer, asked } = await ask([OWN], {
      'gpu-1.test': 'unknown',
      'gpu-2.test': 'under_way',
    })
    expect(answer).toEqual({ kind: 'under_way' })
    expect(asked).toEqual(['gpu-1.test/v1/records/req_1', 'gpu-2.test/v1/records/req_1'])
  })

  it('calls unknown what none of them knows, and nothing while one does not answer', async () => {
    const { answer } = await ask([OWN], { 'gpu-1.test': 'unknown', 'gpu-2.test': 'unknown' })
    expect(answer).toEqual({ kind: 'unknown' })
    expect((await ask([OWN], { 'gpu-1.test': 'unknown' })).answer).toBeNull()
  })

  it('takes an answer of another engine for streaming while an isolate says so', async () => {
    expect(await ask([FOREIGN], {}, true)).toEqual({ answer: { kind: 'under_way' }, asked: [] })
    expect((await ask([FOREIGN], {})).answer).toEqual({ kind: 'unknown' })
  })

  it('knows nothing of a model that no pool serves any more', async () => {
    expect((await ask([{ ...OWN, models: ['other'] }], {})).answer).toBeNull()
  })
})
