import { randomUUID } from 'node:crypto'
import { createServer, type Server } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { getRequestListener } from '@hono/node-server'
import { signReportToken } from '#protocol/capacity-report.ts'
import { ApiError } from '#protocol/errors.ts'
import { openCheckpoint } from '#weights/checkpoint.ts'
import { openStore } from '#weights/store/open.ts'
import type { Config } from '../config.ts'
import { startEngine, type StartedEngine } from '../engine/start.ts'
import type { Log } from '../log.ts'
import { RecordPusher } from '../records/pusher.ts'
import { createRecorder } from '../records/recorder.ts'
import { RecordSpool } from '../records/spool.ts'
import { createApp } from './app.ts'
import { Backend } from './backend.ts'
import { CapacityMeter } from './capacity.ts'
import { CapacityReporter, dialWebSocket } from './capacity-reporter.ts'
import { metricsPage } from './metrics-page.ts'
import { PROMETHEUS_TYPE } from './prometheus-text.ts'
import { PromptEncoder } from './prompt-encoder.ts'
import { RequestIds } from './request-ids.ts'
import { servedModel } from './served-model.ts'
import { ServerMetrics } from './server-metrics.ts'

export interface StartOptions {
  readonly config: Config
  /** Where the checkpoint's store finds its credentials. */
  readonly env: Readonly<Record<string, string | undefined>>
  readonly log: Log
  readonly now: () => number
  readonly random: () => number
}

/** A backend that listens. It answers `/health` and `/ready` from the start, the rest once ready. */
export interface RunningBackend {
  readonly url: string
  /** Resolves when requests are taken; rejects with what keeps the model from being served. */
  readonly ready: Promise<void>
  /** Resolves with the reason if the engine ends without having been told to. */
  readonly engineEnded: Promise<Error>
  /** Lets running requests finish, up to the grace time, and brings their records to the edge. */
  shutdown(): Promise<void>
}

/** How long clients have for the error that ends their answers at shutdown. */
const farewellMs = 1000
/** How long the last push at shutdown may take. */
const lastPushMs = 5000

export async function startBackend(options: StartOptions): Promise<RunningBackend> {
  const { config, log, now } = options
  const spool = await RecordSpool.open(config.spoolDir, { log })
  const engine = startConfiguredEngine(options)
  const backend = createBackend(options, engine, spool)
  const claims = { pool: config.pool, backendId: config.backendId, incarnation: randomUUID() }
  const capacity = new CapacityMeter({ backend, claims, now })
  const { pool, edgePublicKey, metricsPort } = config
  const metrics = metricsPort === null
  const app = createApp({ backend, capacity, metrics, pool, edgePublicKey, log, now })
  const server = createHttpServer(getRequestListener(app.fetch), config)
  const served = serveCheckpoint(backend, options)
  const metricsServer = metricsPort === null ? null : await serveMetrics(backend, config)
  const url = await listen(server, config)
  const parts: Parts = {
    backend,
    engine,
    servers: metricsServer === null ? [server] : [server, metricsServer],
    spool,
    pushing: startPushing(spool, options),
    reporting: startReporting(backend, capacity, options),
  }
  return {
    url,
    ready: Promise.all([engine.ready, served]).then(() => undefined),
    engineEnded: engine.ended,
    shutdown: () => shutdown(parts, config.timings.shutdownGraceMs),
  }
}

function startConfiguredEngine({ config, log }: StartOptions): StartedEngine {
  const { checkpoint, device, gpus, quantisation, numerics, limits } = config
  const { scheduler, cacheTokens, prefixesMax, draftsMax, expertSlots, spill } = limits
  const model = { checkpoint, device, gpus, quantisation, numerics, draftsMax, expertSlots }
  const settings = { ...model, limits: scheduler, cacheTokens, prefixesMax, spill }
  return startEngine(settings, (note) => log.info('engine_note', { note }))
}

function createBackend(options: StartOptions, engine: StartedEngine, spool: RecordSpool): Backend {
  const { config, log, now, random } = options
  return new Backend({
    config,
    engine: engine.client,
    requestIds: new RequestIds(spool.pendingRequestIds()),
    keepUsage: createRecorder({
      spool,
      backendId: config.backendId,
      privateKey: config.recordPrivateKey,
    }),
    records: spool,
    metrics: new ServerMetrics(),
    log,
    now,
    random,
    randomId: randomUUID,
  })
}

interface Parts {
  readonly backend: Backend
  readonly engine: StartedEngine
  readonly servers: readonly Server[]
  readonly spool: RecordSpool
  readonly pushing: Pushing
  readonly reporting: Reporting
}

/** Manifest and tokenizer; the tensors are the engine's to read. */
async function serveCheckpoint(backend: Backend, { config, env }: StartOptions): Promise<void> {
  const checkpoint = await openCheckpoint(openStore(config.checkpoint, env))
  const tokenizerJson = await checkpoint.readFile(checkpoint.manifest.tokenizerFile)
  const served = servedModel(checkpoint, tokenizerJson, config.limits)
  const worker = new URL('encode-worker.ts', import.meta.url)
  const encoder = new PromptEncoder({
    tokenizer: served.tokenizer,
    startThread: () => new Worker(worker, { workerData: tokenizerJson }),
  })
  backend.setServed(served, encoder)
}

function createHttpServer(listener: ReturnType<typeof getRequestListener>, config: Config): Server {
  const server = createServer({ keepAliveTimeout: keepAliveMs(config) }, (incoming, outgoing) => {
    void listener(incoming, outgoing)
  })
  server.setTimeout(config.timings.idleConnectionMs)
  return server
}

/** A server of its own for `/metrics`, for networks that let Prometheus see nothing else. */
async function serveMetrics(backend: Backend, config: Config): Promise<Server> {
  const server = createServer((request, response) => {
    const known = request.url === '/metrics'
    response.writeHead(known ? 200 : 404, { 'content-type': PROMETHEUS_TYPE })
    response.end(known ? metricsPage(backend) : 'There is /metrics here and nothing else.\n')
  })
  await listen(server, { host: config.host, port: config.metricsPort ?? 0 })
  return server
}

/**
 * Idle connections stay open about as long as anything may be silent: the edge pools them, and one
 * closed just as it is taken for a request fails that request.
 */
function keepAliveMs(config: Config): number {
  return Math.max(1000, config.timings.idleConnectionMs - 1000)
}

function listen(server: Server, { host, port }: Pick<Config, 'host' | 'port'>): Promise<string> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, host, () => {
      server.off('error', reject)
      const address = server.address()
      const bound = typeof address === 'object' && address !== null ? address.port : port
      resolve(`http://${host.includes(':') ? `[${host}]` : host}:${bound}`)
    })
  })
}

interface Pushing {
  /** Ends the pushing and tries once more what is left. */
  finish(): Promise<void>
}

function startPushing(spool: RecordSpool, { config, log, random }: StartOptions): Pushing {
  const pusher = new RecordPusher({
    spool,
    edgeUrl: config.edgeUrl,
    fetch,
    sleep: (ms, signal) => sleep(ms, undefined, { signal }).catch(() => undefined),
    random,
    log,
  })
  const stop = new AbortController()
  const running = pusher.run(stop.signal)
  return {
    finish: async () => {
      stop.abort()
      await running
      await pusher.flush(AbortSignal.timeout(lastPushMs))
    },
  }
}

interface Reporting {
  /** The edge hears that nothing more is taken here. */
  announce(): void
  finish(): Promise<void>
}

function startReporting(
  backend: Backend,
  capacity: CapacityMeter,
  { config, log, now, random }: StartOptions,
): Reporting {
  const reporter = new CapacityReporter({
    edgeUrl: config.edgeUrl,
    claims: capacity.claims,
    report: () => capacity.report(),
    signToken: () => signReportToken(capacity.claims, config.recordPrivateKey, now()),
    dial: dialWebSocket,
    intervalMs: config.timings.reportIntervalMs,
    onCancel: (requestId) => backend.requests.cancel(requestId),
    sleep: (ms, signal) => sleep(ms, undefined, { signal }).catch(() => undefined),
    random,
    log,
  })
  const stop = new AbortController()
  const running = reporter.run(stop.signal)
  return {
    announce: () => reporter.reportNow(),
    finish: async () => {
      stop.abort()
      await running
    },
  }
}

async function shutdown(parts: Parts, graceMs: number): Promise<void> {
  const { backend, engine, servers, spool, pushing, reporting } = parts
  backend.drain()
  reporting.announce()
  // Still listening: who comes now is told when to try again, and resumed streams find their end.
  await within(graceMs, backend.requests.whenIdle())
  backend.requests.abortAll(
    new ApiError('server_is_overloaded', 'This backend is shutting down. Try again.'),
  )
  const idle = await within(farewellMs, backend.requests.whenIdle())
  // Whoever does not read what is written to it would hold everything up.
  if (!idle) for (const server of servers) server.closeAllConnections()
  await backend.requests.whenIdle()
  const closed = Promise.all(servers.map(closing)).then(() => undefined)
  await engine.terminate()
  await backend.close()
  await pushing.finish()
  await reporting.finish()
  await spool.close()
  for (const server of servers) server.closeIdleConnections()
  await within(farewellMs, closed)
  for (const server of servers) server.closeAllConnections()
}

function closing(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve())
  })
}

/** Whether the promise was settled in time. */
function within(ms: number, promise: Promise<void>): Promise<boolean> {
  return Promise.race([promise.then(() => true), sleep(ms, false, { ref: false })])
}
