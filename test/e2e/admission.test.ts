import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { admin, postChat, startLoggedStack } from '../support/local-stack.ts'
import type { LoggedStack } from '../support/local-stack.ts'
import { parseStream } from '../support/gpu-backend.ts'
import { makeScratch } from '../support/scratch.ts'
import type { Scratch } from '../support/scratch.ts'

// Money and limits through the real runtime and the real engine. Prices are made large, so that a
// dollar is soon spent by a model of a few thousand weights.

const PICO_PER_USD = 10n ** 12n
const MISS_PICO = 100_000_000n
const OUTPUT_PICO = 1_000_000_000n
const PARALLEL = 500

let scratch: Scratch
let stack: LoggedStack

beforeAll(async () => {
  scratch = await makeScratch('admission')
  stack = await startLoggedStack(scratch.path)
})

afterAll(async () => {
  await stack?.close()
  await scratch?.remove()
})

interface Account {
  readonly path: string
  readonly key: string
  readonly keyPath: string
}

async function call<T>(method: string, path: string, body?: unknown): Promise<T> {
  const response = await admin(stack, method, path, body)
  if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`)
  return (await response.json()) as T
}

/** A tenant with a key, that pays in advance and dearly. */
async function makePrepaid(usd: string): Promise<Account> {
  const made = await call<{ tenant_id: string }>('POST', '/admin/tenants', { name: 'prepaid' })
  const path = `/admin/tenants/${made.tenant_id}`
  await call('PUT', `${path}/billing`, { mode: 'prepaid' })
  const price = { cache_hit_usd: '10', cache_miss_usd: '100', output_usd: '1000' }
  await call('POST', `${path}/prices`, {
    version: 'dear',
    from: Math.ceil(Date.now() / 1000),
    models: { [stack.model]: price },
  })
  await call('POST', `${path}/topups`, { id: 'first', amount_usd: usd })
  const key = await call<{ key: string; key_id: string }>('POST', `${path}/keys`, { name: 'k' })
  // The price is in force from the next second on.
  await new Promise((resolve) => setTimeout(resolve, 1000))
  return { path, key: key.key, keyPath: `${path}/keys/${key.key_id}` }
}

interface Answered {
  readonly status: number
  readonly requestId: string
  readonly code: string | null
  /** As the stream's last chunk says; null when it did not get that far. */
  readonly promptTokens: number | null
  readonly completionTokens: number | null
}

async function stream(account: Account, over: object = {}): Promise<Answered> {
  const messages = [{ role: 'user', content: 'Hi' }]
  const body = { model: stack.model, messages, max_tokens: 6, stream: true, ...over }
  const response = await postChat(stack, body, { apiKey: account.key })
  const requestId = response.headers.get('x-request-id') ?? ''
  const text = await response.text()
  if (response.status !== 200) {
    const { error } = JSON.parse(text) as { error: { code: string } }
    const none = { promptTokens: null, completionTokens: null }
    return { status: response.status, requestId, code: error.code, ...none }
  }
  const events = parseStream(text).events as {
    usage?: { prompt_tokens: number; completion_tokens: number }
    error?: { code: string }
  }[]
  const usage = events.find((event) => event.usage != null)?.usage
  const error = events.find((event) => event.error !== undefined)?.error
  return {
    status: 200,
    requestId,
    code: error?.code ?? null,
    promptTokens: usage?.prompt_tokens ?? null,
    completionTokens: usage?.completion_tokens ?? null,
  }
}

interface Posting {
  readonly id: string
  readonly kind: string
  readonly amount_usd: string
  readonly usage: { prompt_tokens: number; completion_tokens: number } | null
}

interface Ledger {
  readonly balances: Record<string, string>
  readonly data: readonly Posting[]
}

/** A decimal number of dollars in pico-dollars. */
function pico(usd: string): bigint {
  const [whole = '0', fraction = ''] = usd.replace('-', '').split('.')
  const amount = BigInt(whole) * PICO_PER_USD + BigInt(fraction.padEnd(12, '0'))
  return usd.startsWith('-') ? -amount : amount
}

it('shares out what the backend reports', async () => {
  await expect
    .poll(() => call('GET', '/admin/pools/local'), { timeout: 10_000 })
    .toMatchObject({ managed: true, backends: [{ id: 'local-1', models: [stack.model] }] })
})

describe('a key with one dollar', () => {
  it(`pays for what ${PARALLEL} parallel streams made, to the pico-dollar, and no more`, async () => {
    const account = await makePrepaid('1.00')
    const answers = await Promise.all(Array.from({ length: PARALLEL }, () => stream(account)))
    const finished = answers.filter((answer) => answer.completionTokens !== null)
    const refused = answers.filter((answer) => answer.status === 402)
    expect(finished.length).toBeGreaterThan(30)
    expect(refused.length).toBeGreaterThan(0)
    for (const { code } of refused) expect(code).toBe('insufficient_balance')

    await expect
      .poll(
        async () => (await call<{ held_usd: string }>('GET', `${account.path}/billing`)).held_usd,
        {
          timeout: 30_000,
        },
      )
      .toBe('0')
    const ledger = await call<Ledger>('GET', `${account.path}/ledger?limit=1000`)
    const settled = new Map(
      ledger.data.filter(({ kind }) => kind === 'settle').map((entry) => [entry.id, entry]),
    )
    let spent = 0n
    for (const { requestId, promptTokens, completionTokens } of finished) {
      const entry = settled.get(requestId)
      const cost =
        BigInt(promptTokens ?? 0) * MISS_PICO + BigInt(completionTokens ?? 0) * OUTPUT_PICO
      expect(pico(entry?.amount_usd ?? '-1')).toBe(cost)
      spent += cost
    }
    expect(settled.size).toBe(finished.length)
    expect(spent).toBeLessThanOrEqual(PICO_PER_USD)
    expect(pico(ledger.balances['tenant'] ?? '')).toBe(PICO_PER_USD - spent)
    const sum = Object.values(ledger.balances).reduce((total, usd) => total + pico(usd), 0n)
    expect(sum).toBe(0n)
    const usage = await call<{ totals: { amount_usd: string; requests: number } }>(
      'GET',
      `${account.path}/usage`,
    )
    expect(usage.totals.requests).toBe(finished.length)
    expect(pico(usage.totals.amount_usd)).toBe(spent)
  })

  it('gets an answer as long as the money lasts, and then a 402', async () => {
    const account = await makePrepaid('0.03')
    const long = await stream(account, { max_tokens: 3000 })
    expect(long.status).toBe(200)
    expect(long.completionTokens).toBeLessThanOrEqual(30)
    await expect
      .poll(async () => (await stream(account, { max_tokens: 3000 })).status, { timeout: 20_000 })
      .toBe(402)
  })
})

it('serves a burst of 50 as a small cap allows, and refuses none of it', async () => {
  const account = await makePrepaid('1000')
  // Seven at once, and seven and a half a second: the last wait behind comments.
  const limits = [{ dimension: 'requests', per_minute: 450, burst_ms: 1000 }]
  await call('PUT', `${account.path}/limits`, { limits })
  const sent = Array.from({ length: 50 }, () => stream(account, { max_tokens: 1 }))
  const answers = await Promise.all(sent)
  expect(answers.map(({ status, code }) => [status, code])).toEqual(Array(50).fill([200, null]))
  const decisions = await Promise.all(
    answers.map(async ({ requestId }) => {
      const headers = { authorization: `Bearer ${account.key}` }
      const why = await fetch(`${stack.edgeUrl}/v1/requests/${requestId}/admission`, { headers })
      return (await why.json()) as { decided_at_ms: number; waited: { ms: number } | null }
    }),
  )
  const times = decisions.map((decision) => decision.decided_at_ms).toSorted((a, b) => a - b)
  const over = times.flatMap((fromMs, first) =>
    times.slice(first).filter((ms, more) => more + 1 > 7 + (ms - fromMs) * 0.0075),
  )
  expect(over).toEqual([])
  const waited = decisions.filter((decision) => decision.waited !== null)
  console.log(`burst of 50: ${waited.length} waited, ${(times[49] ?? 0) - (times[0] ?? 0)} ms`)
  expect(waited.length).toBeGreaterThan(0)
})

it('tells a tenant what became of its own requests, and nobody else', async () => {
  const [account, stranger] = [await makePrepaid('1.00'), await makePrepaid('1.00')]
  const { requestId, completionTokens } = await stream(account)
  const ask = (path: string, key: string): Promise<Response> =>
    fetch(`${stack.edgeUrl}/v1/requests/${requestId}${path}`, {
      headers: { authorization: `Bearer ${key}` },
    })
  const status = await ask('', account.key)
  expect(status.status).toBe(200)
  expect(await status.json()).toMatchObject({
    id: requestId,
    state: 'finished',
    completion_tokens: completionTokens,
  })
  const why = await ask('/admission', account.key)
  expect(await why.json()).toMatchObject({ id: requestId, outcome: 'admitted' })
  expect((await ask('', stranger.key)).status).toBe(404)
  expect((await ask('/admission', stranger.key)).status).toBe(404)
})

it('stops a revoked key within two seconds, busy as it is', async () => {
  const account = await makePrepaid('1000')
  let stop = false
  let lastSuccessAt = 0
  const hammer = async (): Promise<void> => {
    while (!stop) {
      const startedAt = performance.now()
      const { status } = await stream(account, { max_tokens: 1 })
      if (status === 200) lastSuccessAt = Math.max(lastSuccessAt, startedAt)
    }
  }
  const busy = Promise.all([hammer(), hammer(), hammer()])
  await new Promise((resolve) => setTimeout(resolve, 1500))
  await call('DELETE', account.keyPath)
  const revokedAt = performance.now()
  await new Promise((resolve) => setTimeout(resolve, 3000))
  stop = true
  await busy
  console.log(`last request begun under a revoked key: ${Math.round(lastSuccessAt - revokedAt)} ms`)
  expect(lastSuccessAt).toBeGreaterThan(0)
  expect(lastSuccessAt - revokedAt).toBeLessThan(2000)
})
