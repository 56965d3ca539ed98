import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { startBackendProcess, type BackendProcess } from '../support/backend-process.ts'
import {
  backendEnv,
  callerOf,
  makeServiceKeys,
  parseStream,
  publishToy,
  startFakeEdge,
  type FakeEdge,
  type ServiceKeys,
} from '../support/gpu-backend.ts'
import { makeScratch, type Scratch } from '../support/scratch.ts'

let scratch: Scratch
let keys: ServiceKeys
let checkpoint: string
let edge: FakeEdge
const children: ChildProcess[] = []

beforeAll(async () => {
  scratch = await makeScratch('process')
  keys = await makeServiceKeys()
  checkpoint = await publishToy(scratch.path)
  edge = await startFakeEdge(keys)
})

afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL')
})

afterAll(async () => {
  await edge?.close()
  await scratch?.remove()
})

function start(env: Record<string, string>): BackendProcess {
  const started = startBackendProcess(env)
  children.push(started.child)
  return started
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  server.close()
  await once(server, 'close')
  return typeof address === 'object' && address !== null ? address.port : 0
}

const envWith = (name: string, changes: Record<string, string> = {}): Record<string, string> =>
  backendEnv({
    keys,
    checkpoint,
    spoolDir: join(scratch.path, name),
    edgeUrl: edge.url,
    changes,
  })

describe('the process', () => {
  it('says which setting is missing, in one line, and exits with 2', async () => {
    const { SLUICE_POOL: _, ...env } = envWith('missing')
    const { ended, output } = start(env)
    expect(await ended).toBe(2)
    expect(output).toEqual({
      stdout: '',
      stderr:
        'gpu-backend: SLUICE_POOL is required: the pool this backend serves, as the edge calls it\n',
    })
  })

  it('exits with 1 when there is no checkpoint to serve, and says where it looked', async () => {
    const { ended, output } = start(
      envWith('nowhere', { SLUICE_CHECKPOINT: join(scratch.path, 'nothing-here') }),
    )
    expect(await ended).toBe(1)
    expect(output.stderr).toContain('"event":"engine_failed"')
    expect(output.stderr).toContain('nothing-here')
  })

  it('answers from the start, finishes what runs when told to stop, and exits with 0', async () => {
    const { child, ended, told, output } = start(envWith('stopping'))
    const url = await told('listening')
    expect((await fetch(`${url}/health`)).status).toBe(200)
    expect(await told('ready')).toBe(url)
    const response = await callerOf(url, keys).chat(
      { max_tokens: 60, stream: true },
      { requestId: 'req_stopping' },
    )
    child.kill('SIGTERM')
    expect(parseStream(await response.text()).events.at(-1)).toBe('[DONE]')
    expect(await ended).toBe(0)
    expect(edge.records.map((record) => record.requestId)).toContain('req_stopping')
    expect(output.stderr).toContain('"event":"stopping","signal":"SIGTERM"')
  })

  it('reports its capacity all along, and that it drains as soon as it is told to stop', async () => {
    const changes = { SLUICE_REPORT_INTERVAL_MS: '10000', SLUICE_MAX_SEQUENCES: '1' }
    const { child, ended, told } = start(envWith('draining', changes))
    const caller = callerOf(await told('ready'), keys)
    const requestId = 'req_draining'
    const response = await caller.chat({ max_tokens: 40, stream: true }, { requestId })
    await expect.poll(() => edge.reports.length, { timeout: 5000 }).toBeGreaterThan(0)
    const before = edge.reports.length
    child.kill('SIGTERM')
    // The interval is far off: what comes now was sent because of the signal.
    await expect.poll(() => edge.reports.slice(before)).toMatchObject([{ draining: true }])
    const refused = await caller.chat({ max_tokens: 1 }, { headers: { connection: 'close' } })
    expect(refused.status).toBe(503)
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThanOrEqual(1)
    expect(parseStream(await response.text()).events.at(-1)).toBe('[DONE]')
    expect(await ended).toBe(0)
    const incarnations = new Set(edge.reports.map(({ incarnation }) => incarnation))
    const seqs = edge.reports.slice(before - 1).map(({ seq }) => seq)
    expect(incarnations.size).toBeGreaterThanOrEqual(1)
    expect(seqs).toEqual(seqs.toSorted((a, b) => a - b))
  })

  it('shows its metrics on a port of their own, if it has one, and nothing else there', async () => {
    const port = await freePort()
    const { told } = start(envWith('metrics', { SLUICE_METRICS_PORT: String(port) }))
    const url = await told('listening')
    const page = await fetch(`http://127.0.0.1:${port}/metrics`)
    expect(page.headers.get('content-type')).toBe('text/plain; version=0.0.4; charset=utf-8')
    expect(await page.text()).toMatch(/^sluice_ready\{model_name="[^"]*"\} [01]$/m)
    expect((await fetch(`http://127.0.0.1:${port}/health`)).status).toBe(404)
    expect((await fetch(`${url}/metrics`)).status).toBe(404)
  })

  it('ends a request whose cancellation the edge sends along', async () => {
    const changes = { SLUICE_REPORT_INTERVAL_MS: '50' }
    const { told } = start(envWith('cancelled', changes))
    const caller = callerOf(await told('ready'), keys)
    const requestId = 'req_cancelled'
    const response = await caller.chat({ max_tokens: 3000, stream: true }, { requestId })
    const progressed = () =>
      edge.reports.at(-1)?.progress.find((each) => each.requestId === requestId)?.completionTokens
    await expect.poll(progressed, { timeout: 5000 }).toBeGreaterThan(0)
    edge.sayToReporter({ kind: 'cancel', requestId })
    const recorded = () => edge.records.find((record) => record.requestId === requestId)
    await expect.poll(recorded, { timeout: 5000 }).toMatchObject({ outcome: 'cancelled' })
    await response.body?.cancel()
  })

  it('gives up at the end of the grace time, with a typed error and a record', async () => {
    const { child, ended, told } = start(envWith('impatient', { SLUICE_SHUTDOWN_GRACE_MS: '50' }))
    const url = await told('ready')
    const response = await callerOf(url, keys).chat(
      { max_tokens: 3000, stream: true },
      { requestId: 'req_cut' },
    )
    child.kill('SIGINT')
    const { events } = parseStream(await response.text())
    expect(events.at(-1)).toMatchObject({ error: { code: 'server_is_overloaded' } })
    expect(await ended).toBe(0)
    expect(edge.records.find((record) => record.requestId === 'req_cut')).toMatchObject({
      outcome: 'failed',
    })
  })

  it('brings every record to the edge that it had promised before it was killed', async () => {
    edge.accepting = false
    const first = start(envWith('killed'))
    const before = callerOf(await first.told('ready'), keys)
    const ids = ['req_k1', 'req_k2', 'req_k3']
    for (const requestId of ids) {
      const response = await before.chat({ max_tokens: 2, stream: true }, { requestId })
      expect(parseStream(await response.text()).events.at(-1)).toBe('[DONE]')
    }
    first.child.kill('SIGKILL')
    expect(await first.ended).toBe('SIGKILL')

    const second = start(envWith('killed'))
    const after = callerOf(await second.told('ready'), keys)
    // Not pushed yet, so the id is known to be used, and a second answer under it refused.
    expect((await after.chat({ max_tokens: 1 }, { requestId: 'req_k2' })).status).toBe(400)
    edge.accepting = true
    const arrived = (): string[] =>
      edge.records.map((record) => record.requestId).filter((id) => id.startsWith('req_k'))
    await expect.poll(arrived, { timeout: 20_000 }).toEqual(ids)
    second.child.kill('SIGTERM')
    expect(await second.ended).toBe(0)
  })
})
