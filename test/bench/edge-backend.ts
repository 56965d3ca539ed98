import { createServer } from 'node:http'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { decodeJwt } from 'jose'
import type { CryptoKey } from 'jose'
import { importPrivateKey } from '#protocol/keys.ts'
import { signReportToken } from '#protocol/capacity-report.ts'
import type { CapacityReport } from '#protocol/capacity-report.ts'
import { RecordPusher } from '../../gpu-backend/src/records/pusher.ts'
import { createRecorder } from '../../gpu-backend/src/records/recorder.ts'
import type { KeepUsage } from '../../gpu-backend/src/records/recorder.ts'
import { RecordSpool } from '../../gpu-backend/src/records/spool.ts'
import { CapacityReporter, dialWebSocket } from '../../gpu-backend/src/server/capacity-reporter.ts'

/**
 * A backend that costs next to nothing, as a process of its own: `fork` it and talk by messages.
 * Every POST gets a small whole answer at once, or, with `"stream":true` in its body, events that
 * say when they were written, by the machine's monotonic clock. What a tenant's requests used is
 * recorded and pushed as the product does it, after the answer.
 */
export type BackendCommand =
  | {
      /**
       * Dial this edge and tell of room for everything, several times a second; and push it the
       * records of this tenant's requests.
       */
      readonly kind: 'report'
      readonly edgeUrl: string
      readonly tenantId: string
      readonly pool: string
      readonly recordKey: string
    }
  | {
      /** How the next streams are written. */
      readonly kind: 'stream'
      readonly events: number
      readonly gapMs: number
    }

export interface BackendReady {
  readonly url: string
}

const REPORT_EVERY_MS = 250
const CACHE_TOKENS = 1_000_000_000
const ANSWER = Buffer.from(
  JSON.stringify({
    id: 'chatcmpl-1',
    object: 'chat.completion',
    created: 1,
    model: 'toy',
    choices: [{ index: 0, message: { role: 'assistant', content: 'Hi.' }, finish_reason: 'stop' }],
    usage: { prompt_tokens: 5, completion_tokens: 2, total_tokens: 7 },
  }),
)

const silent = (): void => undefined
const quietLog = { debug: silent, info: silent, warn: silent, error: silent }
const stop = new AbortController()

const running = new Set<string>()
/** By tenant. */
const keepers = new Map<string, KeepUsage>()
const spoolDirs: string[] = []
let streaming = { events: 1, gapMs: 0 }

function answer(request: IncomingMessage, response: ServerResponse): void {
  const chunks: Buffer[] = []
  request.on('data', (chunk: Buffer) => chunks.push(chunk))
  request.on('end', () => {
    const id = String(request.headers['x-request-id'] ?? '')
    running.add(id)
    response.once('close', () => {
      running.delete(id)
      keepRecord(request, id)
    })
    if (Buffer.concat(chunks).includes('"stream":true')) {
      void stream(response)
      return
    }
    const headers = { 'content-type': 'application/json', 'content-length': ANSWER.byteLength }
    response.writeHead(200, headers).end(ANSWER)
  })
}

async function stream(response: ServerResponse): Promise<void> {
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  for (let sent = 0; sent < streaming.events; sent += 1) {
    if (sent > 0) await sleep(streaming.gapMs)
    const at = process.hrtime.bigint()
    response.write(`data: {"choices":[{"index":0,"delta":{"content":"x"}}],"at":${at}}\n\n`)
  }
  response.end('data: [DONE]\n\n')
}

/** Requests that came by no edge have no token and leave no record. */
function keepRecord(request: IncomingMessage, requestId: string): void {
  const token = (request.headers.authorization ?? '').slice('Bearer '.length)
  if (!token.includes('.')) return
  const { aud, sub, kid } = decodeJwt(token)
  const keep = keepers.get(sub ?? '')
  if (keep === undefined || typeof kid !== 'string' || typeof aud !== 'string') return
  const nowMs = Date.now()
  const usage = {
    model: 'toy',
    checkpointHash: 'none',
    promptTokens: 5,
    cachedTokens: 0,
    prefilledTokens: 5,
    completionTokens: 2,
    reasoningTokens: 0,
    deliveredTokens: 2,
    outcome: 'stop',
    acceptedAtMs: nowMs,
    startedAtMs: nowMs,
    firstTokenAtMs: nowMs,
    finishedAtMs: nowMs,
  } as const
  void keep({ requestId, tenantId: sub ?? '', keyId: kid, pool: aud }, usage)
}

async function keepAndPush(command: ReportCommand, privateKey: CryptoKey): Promise<void> {
  const { edgeUrl, tenantId } = command
  const dir = await mkdtemp(join(tmpdir(), 'sluice-bench-spool-'))
  spoolDirs.push(dir)
  const spool = await RecordSpool.open(dir, { log: quietLog })
  keepers.set(tenantId, createRecorder({ spool, backendId: 'bench', privateKey }))
  const { random } = Math
  const pusher = new RecordPusher({ spool, edgeUrl, fetch, sleep: pause, random, log: quietLog })
  await pusher.run(stop.signal)
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await sleep(ms, undefined, { signal }).catch(silent)
}

type ReportCommand = BackendCommand & { readonly kind: 'report' }

async function report(command: ReportCommand): Promise<void> {
  const key = await importPrivateKey(command.recordKey)
  void keepAndPush(command, key)
  const claims = { pool: command.pool, backendId: 'bench', incarnation: String(process.pid) }
  let seq = 0
  const say = (): CapacityReport => ({
    version: 1,
    ...claims,
    seq: ++seq,
    atMs: Date.now(),
    freeCacheTokens: CACHE_TOKENS,
    cacheTokensMax: CACHE_TOKENS,
    running: running.size,
    waiting: 0,
    waitingTokens: 0,
    prefillTokensPerSecond: 0,
    decodeTokensPerSecond: 0,
    draining: false,
    models: [],
    progress: Array.from(running, (requestId) => ({
      requestId,
      promptTokens: 5,
      cachedTokens: 0,
      completionTokens: 1,
    })),
  })
  const reporter = new CapacityReporter({
    edgeUrl: command.edgeUrl,
    claims,
    report: say,
    signToken: () => signReportToken(claims, key, Date.now()),
    dial: dialWebSocket,
    intervalMs: REPORT_EVERY_MS,
    onCancel: silent,
    sleep: pause,
    random: Math.random,
    log: quietLog,
  })
  await reporter.run(stop.signal)
}

const server = createServer(answer)
server.keepAliveTimeout = 60_000
server.listen(0, '127.0.0.1', () => {
  const address = server.address()
  const port = typeof address === 'object' && address !== null ? address.port : 0
  process.send?.({ url: `http://127.0.0.1:${port}` } satisfies BackendReady)
})
process.on('message', (command: BackendCommand) => {
  if (command.kind === 'stream') streaming = command
  else void report(command)
})
process.on('disconnect', () => {
  stop.abort()
  void Promise.all(spoolDirs.map((dir) => rm(dir, { recursive: true }))).finally(() =>
    process.exit(),
  )
})
