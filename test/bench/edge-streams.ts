import { Agent, request as httpRequest } from 'node:http'
import type { ServerResponse } from 'node:http'
import { build } from 'esbuild'
import { median } from '../../gpu-backend/bench/bench.ts'
import type { Bench } from '../../gpu-backend/bench/bench.ts'
import { openEventStream, startFakeBackend } from '../support/fake-backend.ts'
import { startWorkerd } from '../support/workerd.ts'
import type { RunningWorkerd } from '../support/workerd.ts'
import { describeMs } from './edge-figures.ts'

/**
 * Three ways of passing a stream on: handing the backend's response back as it is, the edge's
 * pump, and a TransformStream in JavaScript. Throughput: streams written as fast as they are taken.
 * Delay: many streams at a steady pace, each event carrying the time it was written.
 */
const PUMP = new URL('../../edge/src/upstream/pump.ts', import.meta.url).pathname
const FLOOD = { streams: 16, eventsEach: 10_000, repeats: 3 }
const PACED = { streams: 64, eventsEach: 100, gapMs: 20 }
const RATIO_BASE = 'handed back as it is'

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
    if (path === '/health') return new Response('ok')
    const [, way, ...rest] = path.split('/')
    const { method, body, headers, signal } = request
    const upstream = await fetch(env.BACKEND_URL + '/' + rest.join('/'), {
      method, body, headers, signal,
    })
    return ways[way](upstream, request, context)
  },
}`

/** A Worker that passes everything on in each of the three ways, by the path's first part. */
export async function startProbe(backendUrl: string, dir: string): Promise<RunningWorkerd> {
  const bundled = await build({
    stdin: { contents: PROBE, resolveDir: '.', loader: 'js' },
    bundle: true,
    write: false,
    format: 'esm',
  })
  const script = bundled.outputFiles[0]?.text ?? ''
  return startWorkerd({ script, vars: { BACKEND_URL: backendUrl }, objects: {}, dir })
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

/** GETs and hands each chunk to `onChunk`; resolves at the end of the body. */
function read(url: string, onChunk: (text: string) => void): Promise<void> {
  return new Promise((ended, failed) => {
    const agent = new Agent()
    const request = httpRequest(url, { agent }, (response) => {
      response.setEncoding('utf8')
      response.on('data', onChunk)
      response.once('end', ended)
      response.once('error', failed)
    })
    request.once('error', failed)
    request.end()
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

/** Figures by name, as multiples of the one handed back as it is. */
function asRatios(kind: string, figures: ReadonlyMap<string, number>): Record<string, number> {
  const base = figures.get(RATIO_BASE) ?? Number.NaN
  return Object.fromEntries(
    Array.from(figures, ([name, figure]) => [`${kind}: ${name}, of ${RATIO_BASE}`, figure / base]),
  )
}

export async function benchStreams(
  print: Parameters<Bench>[0],
  dir: string,
): Promise<Record<string, number>> {
  const backend = await startFakeBackend()
  backend.handler = (request, response) => {
    openEventStream(response)
    if (request.url === '/flood') flood(response)
    else pace(response)
  }
  const probe = await startProbe(backend.url, dir)
  const ways = [
    { name: 'straight from the backend', url: backend.url },
    { name: RATIO_BASE, url: `${probe.url}/pass` },
    { name: 'the edge’s pump', url: `${probe.url}/pump` },
    { name: 'a JavaScript TransformStream', url: `${probe.url}/script` },
  ]
  const rates = new Map<string, number>()
  print(`streams: throughput of ${FLOOD.streams}, best of ${FLOOD.repeats}:`)
  for (const { name, url } of ways) {
    for (let run = 0; run < FLOOD.repeats; run += 1) {
      rates.set(name, Math.max(rates.get(name) ?? 0, await measureFlood(`${url}/flood`)))
    }
    print(`  ${name}: ${((rates.get(name) ?? 0) / 1000).toFixed(1)}k events/s`)
  }
  const delays = new Map<string, number>()
  print(`streams: delay of an event, ${PACED.streams} with one every ${PACED.gapMs} ms each:`)
  for (const { name, url } of ways) {
    const measured = await measureDelays(`${url}/pace`)
    delays.set(name, median(measured))
    print(`  ${name}: ${describeMs(measured)}`)
  }
  await probe.close()
  await backend.close()
  return { ...asRatios('events/s', rates), ...asRatios('delay p50', delays) }
}
