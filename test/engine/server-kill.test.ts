import type { ChildProcess } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { UsageRecord } from '#protocol/usage-record.ts'
import { seededRandom } from '../../gpu-backend/src/engine/random.ts'
import { startBackendProcess, type BackendProcess } from '../support/backend-process.ts'
import {
  backendEnv,
  callerOf,
  makeServiceKeys,
  publishToy,
  startFakeEdge,
  type BackendCaller,
  type FakeEdge,
  type ServiceKeys,
} from '../support/gpu-backend.ts'
import { makeScratch, type Scratch } from '../support/scratch.ts'

/** `SLUICE_KILL_RUNS=200` is the long mode; `SLUICE_KILL_SEED` runs another course of events. */
const runs = Number(process.env['SLUICE_KILL_RUNS'] ?? 8)
const seed = Number(process.env['SLUICE_KILL_SEED'] ?? 1)
const random = seededRandom(seed)

const streamsPerRun = 6
const outputTokensMax = 24
/** The kill comes after so many pieces of the answers: before, amid and behind their ends. */
const piecesMax = streamsPerRun * outputTokensMax

let scratch: Scratch
let keys: ServiceKeys
let edge: FakeEdge
let env: Record<string, string>
let child: ChildProcess | null = null

beforeAll(async () => {
  scratch = await makeScratch('kill')
  keys = await makeServiceKeys()
  edge = await startFakeEdge(keys)
  env = backendEnv({
    keys,
    checkpoint: await publishToy(scratch.path),
    spoolDir: join(scratch.path, 'spool'),
    edgeUrl: edge.url,
  })
})

afterAll(async () => {
  child?.kill('SIGKILL')
  await edge?.close()
  await scratch?.remove()
})

interface Tally {
  /** Requests whose client has seen the end of the answer. */
  readonly done: Set<string>
  sent: number
  refused: number
  /** Runs in which the process was killed before it was ready. */
  killedLoading: number
}

function start(): BackendProcess {
  const started = startBackendProcess(env)
  child = started.child
  return started
}

interface Stream {
  readonly caller: BackendCaller
  readonly requestId: string
  readonly onPiece: () => void
}

/** Reads as far as the stream goes, and notes an end that is whole. */
async function read({ caller, requestId, onPiece }: Stream, tally: Tally): Promise<void> {
  tally.sent += 1
  try {
    const body = { max_tokens: 1 + Math.floor(random() * outputTokensMax), stream: true }
    const response = await caller.chat(body, { requestId })
    if (response.status !== 200) tally.refused += 1
    const decoder = new TextDecoder()
    let text = ''
    for await (const piece of response.body ?? []) {
      text += decoder.decode(piece, { stream: true })
      if (text.endsWith('data: [DONE]\n\n')) tally.done.add(requestId)
      onPiece()
    }
  } catch {
    // The process was killed under it, which is what this is about.
  }
}

/** Runs streams until a random number of pieces have come, or all of them are over. */
async function serveForAWhile(run: number, caller: BackendCaller, tally: Tally): Promise<void> {
  const { promise: enough, resolve } = Promise.withResolvers<void>()
  let left = Math.floor(random() * piecesMax)
  const onPiece = (): void => {
    left -= 1
    if (left <= 0) resolve()
  }
  const streams = Array.from({ length: streamsPerRun }, (_, index) =>
    read({ caller, requestId: `req_${run}_${index}`, onPiece }, tally),
  )
  const over = Promise.all(streams).then(() => undefined)
  await Promise.race([enough, over])
  await sleep(random() * 10)
  child?.kill('SIGKILL')
  await over
}

/** One life of the process, from its start to a kill at a random moment. */
async function liveAndDie(run: number, tally: Tally): Promise<void> {
  edge.accepting = random() < 0.5
  const { child: process, told, ended } = start()
  const url = told('ready').catch(() => null)
  if (random() < 0.1) {
    tally.killedLoading += 1
    await sleep(random() * 800)
    process.kill('SIGKILL')
  }
  const at = await url
  if (at !== null) {
    await serveForAWhile(run, callerOf(at, keys), tally)
  }
  await ended
}

/** What the edge has for each request: records that came again are one and the same. */
function recordsById(): Map<string, Set<string>> {
  const byId = new Map<string, Set<string>>()
  const add = (record: UsageRecord): void => {
    const known = byId.get(record.requestId) ?? new Set()
    byId.set(record.requestId, known.add(JSON.stringify(record)))
  }
  edge.records.forEach(add)
  return byId
}

describe('a backend that is killed again and again', () => {
  it(
    `has exactly one record for every answer that had its end, after ${runs} kills (seed ${seed})`,
    { timeout: 60_000 + runs * 10_000 },
    async () => {
      const tally: Tally = { done: new Set(), sent: 0, refused: 0, killedLoading: 0 }
      for (let run = 0; run < runs; run += 1) await liveAndDie(run, tally)
      edge.accepting = true
      const last = start()
      const caller = callerOf(await last.told('ready'), keys)
      const final = await caller.chat({ max_tokens: 2 }, { requestId: 'req_final' })
      expect(final.status).toBe(200)
      await final.text()
      last.child.kill('SIGTERM')
      // It does not end before the edge has every record, or has refused to take them.
      expect(await last.ended).toBe(0)
      const records = recordsById()
      const recordedOnce = [...tally.done].filter((id) => records.get(id)?.size === 1)
      const doubled = [...records].filter(([, contents]) => contents.size > 1)
      console.log(
        `${runs} kills (${tally.killedLoading} while loading), ${tally.sent} requests: ` +
          `${tally.done.size} ended well, ${recordedOnce.length} of them with one record; ` +
          `${records.size} records in ${edge.records.length} deliveries, ${doubled.length} doubled, ` +
          `${tally.refused} refused`,
      )
      expect(recordedOnce).toHaveLength(tally.done.size)
      expect(doubled).toEqual([])
      expect(tally.refused).toBe(0)
      expect(records.has('req_final')).toBe(true)
      expect(existsSync(join(scratch.path, 'spool', 'rejected.jsonl'))).toBe(false)
      // The proof is worth something only if kills came before, amid and behind the answers' ends.
      expect(tally.done.size).toBeGreaterThan(0)
      expect(tally.done.size).toBeLessThan(tally.sent)
    },
  )
})
