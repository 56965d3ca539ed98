import { randomUUID } from 'node:crypto'
import { createServer, type Server } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { getRequestListener } from '@hono/node-server'
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
import { RequestIds } from './request-ids.ts'
import { loadServedModel } from './served-model.ts'

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
  const { config, log, now, random } = options
  const spool = await RecordSpool.open(config.spoolDir, { log })
  const { checkpoint, device, quantisation, numerics, limits } = config
  const { scheduler, cacheTokens } = limits
  const engine = startEngine(
    { checkpoint, device, quantisation, numerics, limits: scheduler, cacheTokens },
    (note) => log.info('engine_note', { note }),
  )
  const backend = new Backend({
    config,
    engine: engine.client,
    requestIds: new RequestIds(spool.pendingRequestIds()),
    keepUsage: createRecorder({
      spool,
      backendId: config.backendId,
      privateKey: config.recordPrivateKey,
    }),
    pendingRecords: () => spool.pendingCount,
    log,
    now,
    random,
    randomId: randomUUID,
  })
  const { pool, edgePublicKey } = config
  const app = createApp({ backend, pool, edgePublicKey, log, now })
  const server = createHttpServer(getRequestListener(app.fetch), config)
  const served = serveCheckpoint(backend, options)
  const parts: Parts = { backend, engine, server, spool, pushing: startPushing(spool, options) }
  return {
    url: await listen(server, config),
    ready: Promise.all([engine.ready, served]).then(() => undefined),
    engineEnded: engine.ended,
    shutdown: () => shutdown(parts, config.timings.shutdownGraceMs),
  }
}

interface Parts {
  readonly backend: Backend
  readonly engine: StartedEngine
  readonly server: Server
  readonly spool: RecordSpool
  readonly pushing: Pushing
}

/** Manifest and tokenizer; the tensors are the engine's to read. */
async function serveCheckpoint(backend: Backend, { config, env }: StartOptions): Promise<void> {
  const checkpoint = await openCheckpoint(openStore(config.checkpoint, env))
  backend.setServed(await loadServedModel(checkpoint, config.limits))
}

function createHttpServer(listener: ReturnType<typeof getRequestListener>, config: Config): Server {
  const server = createServer({ keepAliveTimeout: keepAliveMs(config) }, (incoming, outgoing) => {
    void listener(incoming, outgoing)
  })
  server.setTimeout(config.timings.idleConnectionMs)
  return server
}

/**
 * Idle connections stay open about as long as anything may be silent: the edge pools them, and one
 * closed just as it is taken for a request fails that request.
 */
function keepAliveMs(config: Config): number {
  return Math.max(1000, config.timings.idleConnectionMs - 1000)
}

function listen(server: Server, { host, port }: Config): Promise<string> {
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

async function shutdown(parts: Parts, graceMs: number): Promise<void> {
  const { backend, engine, server, spool, pushing } = parts
  backend.drain()
  const closed = new Promise<void>((resolve) => {
    server.close(() => resolve())
  })
  await within(graceMs, backend.whenIdle())
  backend.abortAll(
    new ApiError('server_is_overloaded', 'This backend is shutting down. Try again.'),
  )
  const idle = await within(farewellMs, backend.whenIdle())
  // Whoever does not read what is written to it would hold everything up.
  if (!idle) server.closeAllConnections()
  await backend.whenIdle()
  await engine.terminate()
  await pushing.finish()
  await spool.close()
  server.closeIdleConnections()
  await within(farewellMs, closed)
  server.closeAllConnections()
}

/** Whether the promise was settled in time. */
function within(ms: number, promise: Promise<void>): Promise<boolean> {
  return Promise.race([promise.then(() => true), sleep(ms, false, { ref: false })])
}
