import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { audit, picoOf } from '../support/crash-audit.ts'
import type { LedgerAnswer, LedgerPosting, SeenUsage } from '../support/crash-audit.ts'
import { CrashFaults } from '../support/crash-faults.ts'
import { startCrashWorld } from '../support/crash-world.ts'
import type { CrashWorld } from '../support/crash-world.ts'
import { makeScratch } from '../support/scratch.ts'
import type { Scratch } from '../support/scratch.ts'

// Bounded here; `SLUICE_CRASH_KILLS=300 SLUICE_CRASH_REQUESTS=20000 npm test -- --project e2e
// test/e2e/crash.test.ts` is the long mode, a quarter of an hour.
const KILLS = Number(process.env['SLUICE_CRASH_KILLS'] ?? 4)
const REQUESTS = Number(process.env['SLUICE_CRASH_REQUESTS'] ?? 100)
const CLIENTS = 32
const CUT_TOKENS = 12
/** Turned away or cut off: an honest client waits up to so long. */
const CLIENT_PAUSE_MS = 400
const TEST_TIMEOUT_MS = 240_000 + KILLS * 12_000 + REQUESTS * 200

interface Payer {
  readonly path: string
  readonly key: string
}

/** How one request went, as its client saw it. */
interface Outcome {
  readonly payer: Payer
  readonly status: number | 'lost'
  readonly seen: SeenUsage | null
}

let scratch: Scratch
let world: CrashWorld
let seed = Number(process.env['SLUICE_CRASH_SEED'] ?? Date.now() % 2 ** 31)

/** mulberry32: printed with the counts, though the interleaving is the machine's. */
function random(): number {
  seed = (seed + 0x6d2b79f5) | 0
  let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed)
  mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
  return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
}

beforeAll(async () => {
  scratch = await makeScratch('crash')
  world = await startCrashWorld(scratch.path, random)
})

afterAll(async () => {
  await world?.close()
  await scratch?.remove()
})

async function makePayer(mode: 'prepaid' | 'postpaid'): Promise<Payer> {
  const tenant = await world.admin<{ tenant_id: string }>('POST', '/tenants', { name: mode })
  const path = `/tenants/${tenant.tenant_id}`
  if (mode === 'prepaid') {
    await world.admin('PUT', `${path}/billing`, { mode })
    await world.admin('POST', `${path}/topups`, { id: 'first', amount_usd: '25' })
  }
  const { key } = await world.admin<{ key: string }>('POST', `${path}/keys`, { name: 'k' })
  return { path, key }
}

/** One request; the client leaves after `cutAfter` events, or stays with null. */
async function ask(payer: Payer, maxTokens: number, cutAfter: number | null): Promise<Outcome> {
  const gone = new AbortController()
  try {
    const response = await fetch(`${world.edgeUrl}/v1/chat/completions`, {
      method: 'POST',
      headers: { authorization: `Bearer ${payer.key}` },
      signal: gone.signal,
      body: JSON.stringify({
        model: world.model,
        messages: [{ role: 'user', content: 'Hi' }],
        max_tokens: maxTokens,
        stream: true,
      }),
    })
    const requestId = response.headers.get('x-request-id') ?? ''
    const { status } = response
    if (status !== 200 || response.body === null) {
      await response.body?.cancel()
      return { payer, status, seen: null }
    }
    const text = await readEvents(response.body, cutAfter)
    if (text === null) gone.abort()
    return { payer, status, seen: text === null ? null : seenUsage(requestId, text) }
  } catch {
    // The edge was killed under it, or it was cut.
    return { payer, status: 'lost', seen: null }
  }
}

/** The whole stream, or null once it has been left. */
async function readEvents(
  body: ReadableStream<Uint8Array>,
  cutAfter: number | null,
): Promise<string | null> {
  const decoder = new TextDecoder()
  let text = ''
  if (cutAfter === 0) return null
  for await (const chunk of body) {
    text += decoder.decode(chunk, { stream: true })
    const events = text.split('\n\n').filter((event) => event.startsWith('data: ')).length
    if (cutAfter !== null && events >= cutAfter) return null
  }
  return text
}

function seenUsage(requestId: string, text: string): SeenUsage | null {
  if (!text.trimEnd().endsWith('data: [DONE]')) return null
  for (const event of text.split('\n\n')) {
    if (!event.startsWith('data: {')) continue
    const { usage } = JSON.parse(event.slice('data: '.length)) as {
      usage?: { prompt_tokens: number; completion_tokens: number }
    }
    if (usage == null) continue
    return {
      requestId,
      promptTokens: usage.prompt_tokens,
      completionTokens: usage.completion_tokens,
    }
  }
  return null
}

async function ledgerOf(payer: Payer): Promise<LedgerAnswer> {
  const data: LedgerPosting[] = []
  for (;;) {
    const after = data.at(-1)?.seq ?? 0
    const path = `${payer.path}/ledger?limit=1000&after=${after}`
    const page = await world.admin<LedgerAnswer>('GET', path)
    data.push(...page.data)
    if (!page.has_more) return { ...page, data }
  }
}

function recordsOf(payer: Payer) {
  return [...world.proxy.records.values()].filter(({ tenantId }) => payer.path.endsWith(tenantId))
}

/** Until the backend has no record to tell of and no reservation is left whose fate is unknown. */
async function settle(payers: readonly Payer[]): Promise<void> {
  const open = async (payer: Payer): Promise<number> => {
    const body = { older_than_seconds: 0 }
    const { open_requests: left } = await world.admin<{ open_requests: number }>(
      'POST',
      `${payer.path}/reconcile`,
      body,
    )
    const posted = new Set((await ledgerOf(payer)).data.map(({ id }) => id))
    return left + recordsOf(payer).filter(({ requestId }) => !posted.has(requestId)).length
  }
  const left = async () => [...(await Promise.all(payers.map(open))), await world.unacknowledged()]
  await expect.poll(left, { timeout: 120_000, interval: 500 }).toEqual([...payers.map(() => 0), 0])
}

async function faultsOf(payer: Payer, outcomes: readonly Outcome[]): Promise<string[]> {
  const { data: postings, balances } = await ledgerOf(payer)
  const usage = await world.admin<{ totals: { amount_usd: string } }>('GET', `${payer.path}/usage`)
  return audit({
    postings,
    balances,
    usageUsd: usage.totals.amount_usd,
    records: recordsOf(payer),
    seen: outcomes.flatMap((outcome) =>
      outcome.payer === payer && outcome.seen !== null ? [outcome.seen] : [],
    ),
  })
}

it(
  'bills a client that leaves after any event exactly what the record says',
  async () => {
    const payer = await makePayer('prepaid')
    // One more than there are events: role, a token each, usage, and [DONE].
    const cuts = Array.from({ length: CUT_TOKENS + 4 }, (_, index) => index)
    const outcomes: Outcome[] = []
    for (const cut of cuts) outcomes.push(await ask(payer, CUT_TOKENS, cut))
    await settle([payer])
    expect(await faultsOf(payer, outcomes)).toEqual([])
    const { data } = await ledgerOf(payer)
    const billed = data.filter(({ kind }) => kind === 'settle' || kind === 'void')
    expect(billed).toHaveLength(cuts.length)
  },
  TEST_TIMEOUT_MS,
)

it(
  'loses nothing and doubles nothing while edge and backend are killed at random',
  async () => {
    const firstSeed = seed
    const payers = [await makePayer('prepaid'), await makePayer('postpaid')] as const
    const outcomes: Outcome[] = []
    const faults = new CrashFaults(world, random)
    // Those whose answer began: what found the edge down or was turned away does not count.
    let taken = 0
    world.proxy.unreliable = true
    const more = (): boolean => taken < REQUESTS || faults.counts.kills < KILLS
    const client = async (): Promise<void> => {
      while (more()) {
        const payer = payers[random() < 0.5 ? 0 : 1]
        const cut = random() < 0.25 ? Math.floor(random() * 6) : null
        const outcome = await ask(payer, 1 + Math.floor(random() * 5), cut)
        outcomes.push(outcome)
        if (outcome.status === 200) taken += 1
        else await sleep(CLIENT_PAUSE_MS * random())
      }
    }
    const clients = Promise.all(Array.from({ length: CLIENTS }, client))
    while (faults.counts.kills < KILLS) {
      // Anywhere among its share of the requests.
      const due = ((faults.counts.kills + random()) * REQUESTS) / KILLS
      while (taken < due) await sleep(5)
      await faults.strike()
    }
    await clients
    await faults.stop()
    world.proxy.unreliable = false
    await settle(payers)

    const wrong = (await Promise.all(payers.map((payer) => faultsOf(payer, outcomes)))).flat()
    const ledgers = await Promise.all(payers.map(ledgerOf))
    const postings = ledgers.flatMap(({ data }) => data)
    const count = (kind: string): number => postings.filter((entry) => entry.kind === kind).length
    console.log(
      JSON.stringify({
        seed: firstSeed,
        ...faults.counts,
        requests: outcomes.length,
        taken,
        refused: outcomes.filter(({ status }) => status !== 200 && status !== 'lost').length,
        lostToClient: outcomes.filter(({ status }) => status === 'lost').length,
        finished: outcomes.filter(({ seen }) => seen !== null).length,
        records: payers.flatMap(recordsOf).length,
        settled: count('settle'),
        void: count('void'),
        ...world.proxy.counts,
        wrong: wrong.length,
      }),
    )
    expect(wrong).toEqual([])
    expect(taken).toBeGreaterThanOrEqual(REQUESTS)
    expect(picoOf(ledgers[0]?.balances['tenant'] ?? '-1')).toBeGreaterThanOrEqual(0n)
  },
  TEST_TIMEOUT_MS,
)
