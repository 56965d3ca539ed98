import { createServer } from 'node:http'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { importPrivateKey } from '#protocol/keys.ts'
import { signReportToken } from '#protocol/capacity-report.ts'
import type { CapacityReport } from '#protocol/capacity-report.ts'
import { CapacityReporter, dialWebSocket } from '../../gpu-backend/src/server/capacity-reporter.ts'

/**
 * A backend that costs next to nothing, as a process of its own: `fork` it and talk by messages.
 * Every POST gets a small whole answer at once, or, with `"stream":true` in its body, events that
 * say when they were written, by the machine's monotonic clock.
 */
export type BackendCommand =
  | {
      /** Dial this edge and tell of room for everything, several times a second. */
      readonly kind: 'report'
      readonly edgeUrl: string
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

const running = new Set<string>()
let streaming = { events: 1, gapMs: 0 }

function answer(request: IncomingMessage, response: ServerResponse): void {
  const chunks: Buffer[] = []
  request.on('data', (chunk: Buffer) => chunks.push(chunk))
  request.on('end', () => {
    const id = String(request.headers['x-request-id'] ?? '')
    running.add(id)
    response.once('close', () => running.delete(id))
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

async function report(command: BackendCommand & { readonly kind: 'report' }): Promise<void> {
  const key = await importPrivateKey(command.recordKey)
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
  const silent = (): void => undefined
  const reporter = new CapacityReporter({
    edgeUrl: command.edgeUrl,
    claims,
    report: say,
    signToken: () => signReportToken(claims, key, Date.now()),
    dial: dialWebSocket,
    intervalMs: REPORT_EVERY_MS,
    onCancel: silent,
    sleep: async (ms, signal) => {
      await sleep(ms, undefined, { signal }).catch(silent)
    },
    random: Math.random,
    log: { debug: silent, info: silent, warn: silent, error: silent },
  })
  await reporter.run(new AbortController().signal)
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
process.on('disconnect', () => process.exit())
