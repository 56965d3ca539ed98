import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { LogFields } from '../log.ts'
import { RecordPusher, type PusherOptions } from './pusher.ts'
import { RecordSpool } from './spool.ts'

interface Call {
  readonly url: string
  readonly records: readonly string[]
}

let directory: string
let spool: RecordSpool
let logged: [string, LogFields][]
let calls: Call[]
let delays: number[]

const note = (event: string, fields: LogFields = {}): void => void logged.push([event, fields])
const log = { debug: note, info: note, warn: note, error: note }

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sluice-pusher-'))
  logged = []
  calls = []
  delays = []
  spool = await RecordSpool.open(directory, { log })
})

afterEach(async () => {
  await spool.close()
  await rm(directory, { recursive: true })
})

const fill = async (count: number): Promise<void> => {
  const records = Array.from({ length: count }, (_, index) => index + 1)
  await Promise.all(records.map((id) => spool.append({ requestId: `req_${id}`, jws: `jws_${id}` })))
}

type Answer = (records: readonly string[]) => Response | Promise<Response>

const acknowledge = (acknowledged: number[], rejected: unknown[] = []): Response =>
  Response.json({ acknowledged, rejected })
const all: Answer = (records) => acknowledge([...records.keys()])

/** Answers the calls in turn; the last answer holds for all that follow. */
function pusherWith(answers: readonly Answer[], changes: Partial<PusherOptions> = {}) {
  return new RecordPusher({
    spool,
    edgeUrl: 'http://edge.test/base/',
    fetch: async (url, init) => {
      const { records } = JSON.parse(String(init.body as string)) as { records: string[] }
      calls.push({ url, records })
      const answer = answers[Math.min(calls.length, answers.length) - 1]
      if (answer === undefined) throw new Error('no answer prepared')
      return answer(records)
    },
    sleep: (ms) => {
      delays.push(ms)
      return Promise.resolve()
    },
    random: () => 1,
    log,
    ...changes,
  })
}

/** Runs until nothing is pending any more. */
async function runUntilEmpty(pusher: RecordPusher): Promise<void> {
  const stop = new AbortController()
  const running = pusher.run(stop.signal)
  await expect.poll(() => spool.pendingCount, { interval: 2 }).toBe(0)
  stop.abort()
  await running
}

describe('RecordPusher', () => {
  it('sends what is pending in batches of at most 64, oldest first', async () => {
    await fill(100)
    await runUntilEmpty(pusherWith([all]))
    expect(calls.map(({ url, records }) => [url, records.length, records[0]])).toEqual([
      ['http://edge.test/base/internal/usage-records', 64, 'jws_1'],
      ['http://edge.test/base/internal/usage-records', 36, 'jws_65'],
    ])
  })

  it('waits for others before it sends less than a batch, and not with a whole one', async () => {
    await fill(64)
    await runUntilEmpty(pusherWith([all]))
    expect(delays).toEqual([])
    await fill(1)
    const sleep = async (ms: number): Promise<void> => {
      delays.push(ms)
      await spool.append({ requestId: 'req_late', jws: 'jws_late' })
    }
    await runUntilEmpty(pusherWith([all], { sleep }))
    expect(calls.at(-1)?.records).toEqual(['jws_1', 'jws_late'])
    expect(delays).toEqual([200])
  })

  it('sends nothing more when it is stopped while it waits for others', async () => {
    await fill(1)
    const stop = new AbortController()
    const sleep = async (): Promise<void> => stop.abort()
    await pusherWith([all], { sleep }).run(stop.signal)
    expect(calls).toEqual([])
    expect(spool.pendingCount).toBe(1)
  })

  it('sends records that come later, without being asked', async () => {
    const pusher = pusherWith([all])
    const stop = new AbortController()
    const running = pusher.run(stop.signal)
    await fill(1)
    await expect.poll(() => calls.length, { interval: 2 }).toBe(1)
    stop.abort()
    await running
  })

  it('tries again after failures of every kind, waiting longer each time', async () => {
    await fill(1)
    const broken: Answer[] = [
      () => Promise.reject(new TypeError('fetch failed')),
      () => new Response('no', { status: 500 }),
      () => Response.json({ acknowledged: 'all' }),
      () => new Response('<html>'),
      () => acknowledge([]),
      () => acknowledge([7]),
    ]
    await runUntilEmpty(pusherWith([...broken, all]))
    expect(calls).toHaveLength(7)
    expect(delays).toEqual([200, 250, 500, 1000, 2000, 4000, 8000])
  })

  it('never waits longer than half a minute, and spreads the waits', async () => {
    await fill(1)
    const down: Answer[] = Array.from(
      { length: 12 },
      () => () => new Response(null, { status: 503 }),
    )
    await runUntilEmpty(pusherWith([...down, all], { random: () => 0 }))
    expect(delays.at(-1)).toBe(15_000)
    expect(delays[1]).toBe(125)
  })

  it('sends again only what was not settled', async () => {
    await fill(4)
    const rejected = [{ index: 1, reason: 'malformed' }]
    await runUntilEmpty(pusherWith([() => acknowledge([0, 3], rejected), all]))
    expect(calls[1]?.records).toEqual(['jws_3'])
    expect(logged).toContainEqual([
      'usage_record_rejected',
      { request_id: 'req_2', reason: 'malformed' },
    ])
  })

  it('starts over with what an earlier process left', async () => {
    await fill(2)
    await spool.close()
    spool = await RecordSpool.open(directory, { log })
    await runUntilEmpty(pusherWith([all]))
    expect(calls.map(({ records }) => records)).toEqual([['jws_1', 'jws_2']])
  })

  it('flushes once and gives up at the first failure', async () => {
    await fill(1)
    const pusher = pusherWith([() => new Response(null, { status: 503 }), all])
    await pusher.flush(new AbortController().signal)
    expect(spool.pendingCount).toBe(1)
    await pusher.flush(new AbortController().signal)
    expect(spool.pendingCount).toBe(0)
  })

  it('puts no record into the log', async () => {
    await fill(1)
    await runUntilEmpty(pusherWith([() => new Response(null, { status: 500 }), all]))
    expect(JSON.stringify(logged)).not.toContain('jws_1')
  })
})
