/**
 * What the server costs round the engine: `npm run bench -- server`. Client and backend share
 * one machine, so read differences between lines, not the lines.
 *
 * Batch 1: the toy's tokens a second from the engine alone, in this thread, and through the worker
 * thread, HTTP and a client; in turns, so that a busy machine slows both. Flood: an engine that costs
 * nothing, so that what is left is detokenising, parsing, JSON and sockets.
 */
import { EventEmitter } from 'node:events'
import { createServer } from 'node:http'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { getRequestListener } from '@hono/node-server'
import { importPublicKey } from '#protocol/keys.ts'
import { openCheckpoint } from '#weights/checkpoint.ts'
import { openDirectoryStore } from '#weights/store/directory.ts'
import { median, round3, type Bench } from '../../gpu-backend/bench/bench.ts'
import { parseConfig, type Config } from '../../gpu-backend/src/config.ts'
import { openDevice } from '../../gpu-backend/src/device/open.ts'
import { EngineClient } from '../../gpu-backend/src/engine/client.ts'
import { Engine } from '../../gpu-backend/src/engine/engine.ts'
import type {
  EngineCommand,
  EngineEvent,
  EngineReport,
} from '../../gpu-backend/src/engine/protocol.ts'
import { createLog } from '../../gpu-backend/src/log.ts'
import { loadModel } from '../../gpu-backend/src/model/model.ts'
import { createApp } from '../../gpu-backend/src/server/app.ts'
import { Backend } from '../../gpu-backend/src/server/backend.ts'
import { CapacityMeter } from '../../gpu-backend/src/server/capacity.ts'
import { RequestIds } from '../../gpu-backend/src/server/request-ids.ts'
import { ServerMetrics } from '../../gpu-backend/src/server/server-metrics.ts'
import { startBackend } from '../../gpu-backend/src/server/start.ts'
import {
  backendEnv,
  callerOf,
  makeServiceKeys,
  POOL,
  publishToy,
  startFakeEdge,
} from '../support/gpu-backend.ts'
import { makeScratch, type Scratch } from '../support/scratch.ts'
import { encodingHere, noRecords } from '../support/fake-server-parts.ts'
import { tokensOf, toyServed } from '../support/toy-served.ts'

const BATCH1 = { tokens: 100, rounds: 7 }
const FLOOD = { streams: 16, tokensEach: 5000 }
const request = { seed: 1, thinking: { type: 'disabled' }, temperature: 0, stream: true }

const log = createLog({ level: 'silent', write: () => undefined, now: Date.now })

type Print = Parameters<Bench>[0]

interface Surroundings {
  readonly keys: Awaited<ReturnType<typeof makeServiceKeys>>
  readonly scratch: Scratch
  readonly edgeUrl: string
}

interface Measured {
  readonly tokens: number
  readonly ms: number
}

const perSecond = ({ tokens, ms }: Measured): number => (1000 * tokens) / ms

/** From the first token to the last, so that the prompt is nobody's. */
async function engineAlone(config: Config): Promise<() => Measured> {
  const checkpoint = await openCheckpoint(openDirectoryStore(config.checkpoint))
  const model = await loadModel(checkpoint, await openDevice('reference'), {
    quantisation: config.quantisation,
  })
  const prompt = Int32Array.from(
    tokensOf('<｜begin▁of▁sentence｜><｜User｜>Hello<｜Assistant｜></think>'),
  )
  let id = 0
  return () => {
    const times: number[] = []
    const engine = new Engine({
      model,
      limits: config.limits.scheduler,
      random: Math.random,
      now: Date.now,
      emit: (events) => {
        if (events.some((event) => event.kind === 'token')) times.push(performance.now())
      },
    })
    const sampling = { temperature: 0, topP: 1, seed: 1 }
    id += 1
    engine.submit({
      id,
      prompt,
      outputTokensMax: BATCH1.tokens,
      sampling,
      topLogprobs: null,
      priority: 0,
      deadlineMs: null,
      cacheSalt: null,
    })
    while (!engine.idle) engine.step()
    return { tokens: times.length - 1, ms: (times.at(-1) ?? 0) - (times[0] ?? 0) }
  }
}

async function readStream(response: Response): Promise<Measured> {
  const decoder = new TextDecoder()
  let first = 0
  let last = 0
  let text = ''
  for await (const chunk of response.body ?? []) {
    text += decoder.decode(chunk, { stream: true })
    if (first === 0 && text.includes('data: ')) first = performance.now()
    last = performance.now()
  }
  const tokens = Number(/"completion_tokens":(\d+)/.exec(text)?.[1])
  return { tokens: tokens - 1, ms: last - first }
}

/** Seconds the engine has spent in its steps so far, by the backend's own word. */
async function stepSeconds(url: string): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text()
  return Number(/^sluice_engine_step_seconds_total\{[^}]*\} (\S+)$/m.exec(text)?.[1])
}

interface Batch1 {
  /** Tokens a second through HTTP, of the engine's alone. */
  readonly throughHttp: number
  /** A request's time outside the engine's steps, of the time in them. */
  readonly added: number
}

async function benchBatch1(
  { keys, scratch, edgeUrl }: Surroundings,
  print: Print,
): Promise<Batch1> {
  const env = backendEnv({
    keys,
    checkpoint: await publishToy(scratch.path),
    spoolDir: join(scratch.path, 'spool'),
    edgeUrl,
    // What is looked for is what stands between a step and a client: the same steps on both sides.
    changes: { SLUICE_SPECULATION: '0' },
  })
  const config = await parseConfig(env)
  const now = Date.now
  const backend = await startBackend({ config, env, log, now, random: Math.random })
  await backend.ready
  const alone = await engineAlone(config)
  const caller = callerOf(backend.url, keys)
  const served = async (): Promise<Measured> =>
    readStream(await caller.chat({ ...request, max_tokens: BATCH1.tokens }))
  const rounds: { alone: number; served: number; added: number }[] = []
  alone()
  await served()
  for (let round = 0; round < BATCH1.rounds; round++) {
    const before = await stepSeconds(backend.url)
    const startedAt = performance.now()
    const measured = await served()
    const seconds = (performance.now() - startedAt) / 1000
    const steps = (await stepSeconds(backend.url)) - before
    const added = seconds / steps - 1
    rounds.push({ alone: perSecond(alone()), served: perSecond(measured), added })
  }
  await backend.shutdown()
  // The best round of each is the one that the rest of the machine disturbed least.
  const engine = Math.max(...rounds.map((round) => round.alone))
  const http = Math.max(...rounds.map((round) => round.served))
  const extra = 1000 / http - 1000 / engine
  print(`batch 1, engine alone   ${engine.toFixed(1)} tokens/s`)
  print(`batch 1, through HTTP   ${http.toFixed(1)} tokens/s (${extra.toFixed(2)} ms a token)`)
  // Both are of the same request, so that this one holds on a busy machine as well.
  const added = median(rounds.map((round) => round.added))
  print(`batch 1, a whole request ${(100 * added).toFixed(1)} % longer than its steps`)
  return { throughHttp: http / engine, added }
}

/** Answers each request at once with as many tokens as it may have, a turn of the loop for each. */
class FreeEngine extends EventEmitter {
  postMessage(command: EngineCommand): void {
    if (command.kind === 'generate') void this.#generate(command.request.id)
  }

  report(report: EngineReport): void {
    this.emit('message', report)
  }

  async #generate(id: number): Promise<void> {
    const [token = 0] = tokensOf(' the')
    const event: EngineEvent = { kind: 'token', id, token, logprobs: null }
    this.report({ kind: 'events', events: [{ kind: 'started', id, cachedTokens: 0 }] })
    for (let i = 0; i < FLOOD.tokensEach; i++) {
      this.report({ kind: 'events', events: [event] })
      await new Promise((resolve) => setImmediate(resolve))
    }
    const generated = FLOOD.tokensEach
    this.report({ kind: 'events', events: [{ kind: 'finished', id, reason: 'length', generated }] })
  }
}

async function benchFlood({ keys, scratch, edgeUrl }: Surroundings, print: Print): Promise<void> {
  const thread = new FreeEngine()
  const spoolDir = join(scratch.path, 'none')
  const config = await parseConfig(backendEnv({ keys, checkpoint: 'none', spoolDir, edgeUrl }))
  const { scheduler } = config.limits
  const backend = new Backend({
    config,
    engine: new EngineClient({ thread, limits: scheduler, onStatus: () => undefined }),
    requestIds: new RequestIds(),
    keepUsage: () => Promise.resolve(),
    records: noRecords,
    metrics: new ServerMetrics(),
    log,
    now: Date.now,
    random: Math.random,
    randomId: () => 'c0a80101-0000-4000-8000-000000000000',
  })
  backend.setServed(toyServed({ contextTokens: 1_048_576 }), encodingHere())
  thread.report({ kind: 'ready', device: 'none' })
  const edgePublicKey = await importPublicKey(keys.edgePublicJwk)
  const claims = { pool: POOL, backendId: 'bench', incarnation: 'bench' }
  const capacity = new CapacityMeter({ backend, claims, now: Date.now })
  const options = { backend, capacity, metrics: true, pool: POOL, edgePublicKey, log }
  const app = createApp({ ...options, now: Date.now })
  const listener = getRequestListener(app.fetch)
  const server = createServer((incoming, outgoing) => void listener(incoming, outgoing))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('no TCP address')
  const caller = callerOf(`http://127.0.0.1:${address.port}`, keys)
  const cpuBefore = process.cpuUsage()
  const startedAt = performance.now()
  const streams = Array.from({ length: FLOOD.streams }, async () =>
    readStream(await caller.chat({ ...request, max_tokens: FLOOD.tokensEach })),
  )
  await Promise.all(streams)
  const ms = performance.now() - startedAt
  const cpu = process.cpuUsage(cpuBefore)
  const tokens = FLOOD.streams * FLOOD.tokensEach
  const micros = ((cpu.user + cpu.system) / tokens).toFixed(1)
  print(
    `flood, ${FLOOD.streams} streams       ${Math.round(perSecond({ tokens, ms }))} tokens/s, ` +
      `${micros} µs of CPU a token, the client's included`,
  )
  server.close()
  server.closeAllConnections()
}

export const serverBench: Bench = async (print) => {
  const keys = await makeServiceKeys()
  const scratch = await makeScratch('bench')
  const edge = await startFakeEdge(keys)
  const surroundings = { keys, scratch, edgeUrl: edge.url }
  const { throughHttp, added } = await benchBatch1(surroundings, print)
  await benchFlood(surroundings, print)
  await edge.close()
  await scratch.remove()
  return {
    conditions: { cores: availableParallelism(), tokens: BATCH1.tokens, rounds: BATCH1.rounds },
    ratios: {
      'batch 1 tokens/s: through HTTP, of the engine alone': round3(throughHttp),
      'batch 1 request: time outside the steps, of the time in them': round3(added),
    },
  }
}
