import { EventEmitter, once } from 'node:events'
import { createServer } from 'node:http'
import type { Socket } from 'node:net'
import { getRequestListener } from '@hono/node-server'
import { importPublicKey } from '#protocol/keys.ts'
import { parseConfig, type Config } from '../../gpu-backend/src/config.ts'
import { EngineClient } from '../../gpu-backend/src/engine/client.ts'
import type {
  EngineCommand,
  EngineEvent,
  EngineReport,
} from '../../gpu-backend/src/engine/protocol.ts'
import type { KeepUsage } from '../../gpu-backend/src/records/recorder.ts'
import { createApp } from '../../gpu-backend/src/server/app.ts'
import { Backend, type BackendOptions } from '../../gpu-backend/src/server/backend.ts'
import { CapacityMeter } from '../../gpu-backend/src/server/capacity.ts'
import { RequestIds } from '../../gpu-backend/src/server/request-ids.ts'
import { ServerMetrics } from '../../gpu-backend/src/server/server-metrics.ts'
import { encodingHere, noRecords } from './fake-server-parts.ts'
import {
  backendEnv,
  callerOf,
  makeServiceKeys,
  POOL,
  type BackendCaller,
  type ServiceKeys,
} from './gpu-backend.ts'
import { tokensOf, toyServed } from './toy-served.ts'

/** The engine's thread, played by the test: real HTTP in front, every event made by hand. */
export class ScriptedThread extends EventEmitter {
  readonly commands: EngineCommand[] = []

  postMessage(command: EngineCommand): void {
    this.commands.push(command)
    this.emit('command', command)
  }

  report(report: EngineReport): void {
    this.emit('message', report)
  }

  happen(...events: EngineEvent[]): void {
    this.report({ kind: 'events', events })
  }

  start(id: number, cachedTokens = 0): void {
    this.happen({ kind: 'started', id, cachedTokens })
  }

  say(id: number, text: string): void {
    this.happen(
      ...tokensOf(text).map((token) => ({ kind: 'token', id, token, logprobs: null }) as const),
    )
  }

  finish(id: number, reason: 'stop' | 'length' | 'cancelled' = 'stop'): void {
    this.happen({ kind: 'finished', id, reason, generated: 0 })
  }

  /** The next command that has not been waited for. */
  async next(kind: EngineCommand['kind']): Promise<EngineCommand> {
    for (;;) {
      const found = this.commands.findIndex((command) => command.kind === kind)
      const [command] = found < 0 ? [] : this.commands.splice(found, 1)
      if (command !== undefined) return command
      await once(this, 'command')
    }
  }
}

export interface ScriptedBackend {
  readonly keys: ServiceKeys
  readonly thread: ScriptedThread
  readonly backend: Backend
  readonly capacity: CapacityMeter
  readonly url: string
  readonly caller: BackendCaller
  /** Every connection made so far. */
  readonly connections: readonly Socket[]
  /** What would be on record. */
  readonly kept: Parameters<KeepUsage>[1][]
  readonly close: () => void
}

const quiet = (): void => undefined
export const quietLog = { debug: quiet, info: quiet, warn: quiet, error: quiet }

export interface ScriptedOptions {
  /** false: the model is still on its way. */
  readonly loaded?: boolean
  readonly settings?: Readonly<Record<string, string>>
  /** The parts a test plays itself. */
  readonly parts?: Partial<BackendOptions>
}

/** A backend's server over a scripted engine, ready to take requests unless told otherwise. */
export async function startScripted(options: ScriptedOptions = {}): Promise<ScriptedBackend> {
  const keys = await makeServiceKeys()
  const thread = new ScriptedThread()
  const kept: Parameters<KeepUsage>[1][] = []
  const config = await configOf(keys, options.settings ?? {})
  const backend = new Backend({
    config,
    engine: new EngineClient({ thread, limits: config.limits.scheduler, onStatus: quiet }),
    requestIds: new RequestIds(),
    keepUsage: (_, usage) => {
      kept.push(usage)
      return Promise.resolve()
    },
    records: noRecords,
    metrics: new ServerMetrics(),
    log: quietLog,
    now: Date.now,
    random: () => 0.5,
    randomId: () => 'id',
    ...options.parts,
  })
  if (options.loaded !== false) {
    backend.setServed(toyServed(), encodingHere())
    thread.report({ kind: 'ready', device: 'scripted' })
  }
  const claims = { pool: POOL, backendId: 'test-1', incarnation: 'first' }
  const capacity = new CapacityMeter({ backend, claims, now: Date.now })
  const edgePublicKey = await importPublicKey(keys.edgePublicJwk)
  const app = createApp({
    backend,
    capacity,
    metrics: true,
    pool: POOL,
    edgePublicKey,
    log: quietLog,
    now: Date.now,
  })
  const { url, connections, close } = await listen(app.fetch)
  const caller = callerOf(url, keys)
  return { keys, thread, backend, capacity, url, caller, connections, kept, close }
}

function configOf(keys: ServiceKeys, changes: Readonly<Record<string, string>>): Promise<Config> {
  const edgeUrl = 'http://127.0.0.1:1'
  return parseConfig(
    backendEnv({ keys, checkpoint: 'none', spoolDir: 'none', edgeUrl, changes: { ...changes } }),
  )
}

async function listen(fetch: Parameters<typeof getRequestListener>[0]): Promise<{
  readonly url: string
  readonly connections: readonly Socket[]
  readonly close: () => void
}> {
  const listener = getRequestListener(fetch)
  const server = createServer((incoming, outgoing) => void listener(incoming, outgoing))
  const connections: Socket[] = []
  server.on('connection', (socket: Socket) => connections.push(socket))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('no TCP address')
  const close = (): void => {
    server.close()
    server.closeAllConnections()
  }
  return { url: `http://127.0.0.1:${address.port}`, connections, close }
}
