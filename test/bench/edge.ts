/**
 * What the edge costs: `npm run bench -- edge`. Backend, client and workerd share one
 * machine, so read differences between lines, not the lines.
 *
 * Latency: one small whole answer at a time, straight from the backend and through the edge.
 * Throughput: streams written as fast as they are taken. Delay: many streams at a steady pace,
 * each event carrying the time it was written.
 *
 * The last two are measured for three ways of passing a stream on: handing the backend's response
 * back as it is, the edge's pump, and a TransformStream in JavaScript.
 */
import { Agent, request as httpRequest } from 'node:http'
import type { ServerResponse } from 'node:http'
import { availableParallelism } from 'node:os'
import { build } from 'esbuild'
import { convertV4MiniflareOptions, Log, LogLevel, Miniflare } from 'miniflare'
import { median, type Bench } from '../../gpu-backend/bench/bench.ts'
import { createEdgeKey, EDGE_MODEL, makeEdgeSecrets, startEdgeUnderTest } from '../support/edge.ts'
import { openEventStream, startFakeBackend } from '../support/fake-backend.ts'

const PUMP = new URL('../../edge/src/upstream/pump.ts', import.meta.url).pathname
const FLOOD = { streams: 16, eventsEach: 10_000, repeats: 3 }
const PACED = { streams: 64, eventsEach: 100, gapMs: 20 }
const LATENCY = { requests: 1_000, warmUp: 300, rounds: 4 }

const PROBE = `
import { pumpBody } from ${JSON.stringify(PUMP)}
const ways = {
  pass: (upstream) => upstream,
  pump: (upstream, request, context) => {
    const { readable, writable } = new IdentityTransformStream()
    const { signal } = request
    context.waitUntil(pumpBody({ body: upstream.body, writable, farewell: '!', signal }))
    return new Response(readable, upstream)
  },
  script: (upstream, request, context) => {
    const { readable, writable } = new TransformStream({
      transform: (chunk, controller) => controller.enqueue(chunk),
    })
    context.waitUntil(upstream.body.pipeTo(writable))
    return new Response(readable, upstream)
  },
}
export default {
  async fetch(request, env, context) {
    const path = new URL(request.url).pathname
    const [, way, rest] = path.split('/')
    const { method, body, signal } = request
    const upstream = await fetch(env.BACKEND_URL + '/' + rest, { method, body, signal })
    return ways[way](upstream, request, context)
  },
}`

function quantile(sorted: readonly number[], q: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))] ?? Number.NaN
}

function describeMs(values: number[]): string {
  const sorted = values.toSorted((a, b) => a - b)
  const [p50, p99] = [quantile(sorted, 0.5), quantile(sorted, 0.99)]
  return `p50 ${p50.toFixed(2)} ms, p99 ${p99.toFixed(2)} ms`
}

function flood(response: ServerResponse): void {
  const event = `data: ${'x'.repeat(200)}\n\n`
  let left = FLOOD.eventsEach
  const write = (): void => {
    while (left > 0) {
      left -= 1
      if (!response.write(event)) return void response.once('drain', write)
    }
    response.end('data: [DONE]\n\n')
  }
  write()
}

function pace(response: ServerResponse): void {
  let left = PACED.eventsEach
  const timer = setInterval(() => {
    if (left === 0) {
      clearInterval(timer)
      response.end('data: [DONE]\n\n')
      return
    }
    left -= 1
    response.write(`data: ${performance.now()}\n\n`)
  }, PACED.gapMs)
}

/** GETs or POSTs and hands each chunk to `onChunk`; resolves at the end of the body. */
function read(
  url: string,
  onChunk: (text: string) => void,
  options: { agent?: Agent; headers?: Record<string, string>; body?: string } = {},
): Promise<void> {
  return new Promise((ended, failed) => {
    const { body, agent, headers = {} } = options
    const method = body === undefined ? 'GET' : 'POST'
    const request = httpRequest(url, { method, agent: agent ?? false, headers }, (response) => {
      response.setEncoding('utf8')
      response.on('data', onChunk)
      response.once('end', ended)
      response.once('error', failed)
    })
    request.once('error', failed)
    request.end(body)
  })
}

async function measureFlood(url: string): Promise<number> {
  const startedAt = performance.now()
  const streams = Array.from({ length: FLOOD.streams }, () => read(url, () => undefined))
  await Promise.all(streams)
  return (FLOOD.streams * FLOOD.eventsEach) / ((performance.now() - startedAt) / 1000)
}

async function measureDelays(url: string): Promise<number[]> {
  const delays: number[] = []
  const onChunk = (text: string): void => {
    const arrivedAt = performance.now()
    for (const [, writtenAt] of text.matchAll(/data: ([\d.]+)\n/g)) {
      delays.push(arrivedAt - Number(writtenAt))
    }
  }
  await Promise.all(Array.from({ length: PACED.streams }, () => read(url, onChunk)))
  return delays
}

async function measureLatency(url: string, headers: Record<string, string>): Promise<number[]> {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  const messages = [{ role: 'user', content: 'Hello' }]
  const body = JSON.stringify({ model: EDGE_MODEL, messages })
  const times: number[] = []
  for (let sent = 0; sent < LATENCY.warmUp + LATENCY.requests; sent += 1) {
    const startedAt = performance.now()
    await read(url, () => undefined, { agent, headers, body })
    if (sent >= LATENCY.warmUp) times.push(performance.now() - startedAt)
  }
  agent.destroy()
  return times
}

/** Serves `/flood` and `/pace` as event streams, and a small whole answer to every POST. */
async function startStreams(): ReturnType<typeof startFakeBackend> {
  const backend = await startFakeBackend()
  backend.handler = (request, response) => {
    request.resume()
    if (request.method === 'POST') {
      response.writeHead(200, { 'content-type': 'application/json' })
      response.end('{"object":"chat.completion"}')
      return
    }
    openEventStream(response)
    if (request.url === '/flood') flood(response)
    else pace(response)
  }
  return backend
}

/** A Worker that passes streams on in each of the three ways. */
async function startProbe(backendUrl: string): Promise<Miniflare> {
  const bundled = await build({
    stdin: { contents: PROBE, resolveDir: '.', loader: 'js' },
    bundle: true,
    write: false,
    format: 'esm',
  })
  const contents = bundled.outputFiles[0]?.text ?? ''
  return new Miniflare(
    convertV4MiniflareOptions({
      name: 'probe',
      compatibilityDate: '2026-10-01',
      compatibilityFlags: ['enable_request_signal'],
      bindings: { BACKEND_URL: backendUrl },
      modules: [{ type: 'ESModule', path: 'index.js', contents }],
      host: '127.0.0.1',
      port: 0,
      cf: false,
      log: new Log(LogLevel.WARN),
      logRequests: false,
    }),
  )
}

type Print = Parameters<Bench>[0]

interface Hop {
  readonly name: string
  readonly url: string
}

const RATIO_BASE = 'handed back as it is'

/** Figures by name, as multiples of the one handed back as it is. */
function asRatios(kind: string, figures: ReadonlyMap<string, number>): Record<string, number> {
  const base = figures.get(RATIO_BASE) ?? Number.NaN
  return Object.fromEntries(
    Array.from(figures, ([name, figure]) => [`${kind}: ${name}, of ${RATIO_BASE}`, figure / base]),
  )
}

async function benchStreams(ways: readonly Hop[], print: Print): Promise<Record<string, number>> {
  const rates = new Map<string, number>()
  print(`throughput, ${FLOOD.streams} streams, best of ${FLOOD.repeats}:`)
  for (const { name, url } of ways) {
    for (let run = 0; run < FLOOD.repeats; run += 1) {
      rates.set(name, Math.max(rates.get(name) ?? 0, await measureFlood(`${url}/flood`)))
    }
    print(`  ${name}: ${((rates.get(name) ?? 0) / 1000).toFixed(1)}k events/s`)
  }
  const delays = new Map<string, number>()
  print(`delay, ${PACED.streams} streams, an event every ${PACED.gapMs} ms:`)
  for (const { name, url } of ways) {
    const measured = await measureDelays(`${url}/pace`)
    delays.set(name, median(measured))
    print(`  ${name}: ${describeMs(measured)}`)
  }
  return { ...asRatios('events/s', rates), ...asRatios('delay p50', delays) }
}

async function benchLatency(
  hops: readonly Hop[],
  headers: Record<string, string>,
  print: Print,
): Promise<Record<string, number>> {
  const medians = new Map<string, number[]>()
  print(`latency of a small whole answer, one at a time, ${LATENCY.rounds} rounds:`)
  for (let round = 0; round < LATENCY.rounds; round += 1) {
    for (const { name, url } of hops) {
      const measured = await measureLatency(url, headers)
      medians.set(name, [...(medians.get(name) ?? []), median(measured)])
      print(`  ${name}: ${describeMs(measured)}`)
    }
  }
  const ratio = (of: string): number =>
    median(medians.get('through the edge') ?? []) / median(medians.get(of) ?? [])
  return {
    'latency p50: edge, of a Worker that only forwards': ratio(
      'through a Worker that only forwards',
    ),
  }
}

export const edgeBench: Bench = async (print) => {
  const backend = await startStreams()
  const probe = await startProbe(backend.url)
  const probeUrl = (await probe.ready).origin
  const streams = await benchStreams(
    [
      { name: 'straight from the backend', url: backend.url },
      { name: RATIO_BASE, url: `${probeUrl}/pass` },
      { name: 'the edge’s pump', url: `${probeUrl}/pump` },
      { name: 'a JavaScript TransformStream', url: `${probeUrl}/script` },
    ],
    print,
  )
  const edge = await startEdgeUnderTest({
    backendUrl: backend.url,
    secrets: await makeEdgeSecrets(),
  })
  const { key } = await createEdgeKey(edge)
  const latency = await benchLatency(
    [
      { name: 'straight from the backend', url: `${backend.url}/v1/chat/completions` },
      { name: 'through a Worker that only forwards', url: `${probeUrl}/pass/completions` },
      { name: 'through the edge', url: `${edge.url}/v1/chat/completions` },
    ],
    { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    print,
  )
  await probe.dispose()
  await edge.close()
  await backend.close()
  return {
    conditions: {
      cores: availableParallelism(),
      streams: FLOOD.streams,
      pacedStreams: PACED.streams,
      latencyRequests: LATENCY.requests,
    },
    ratios: { ...streams, ...latency },
  }
}
