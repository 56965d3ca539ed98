/**
 * The toy as its users meet it: `npm run bench -- serve`. A backend in a process of its own, over the
 * CPU device, and clients in this one; both share the machine, so read ratios.
 *
 * Closed loops of 1, 8 and 32 clients; requests that arrive at random below and above what was
 * sustained; a long prompt again, whose beginning is still in the cache; one stream alone and among
 * others; with and without guesses of the draft block.
 */
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { type Bench, median, round3 } from '../../gpu-backend/bench/bench.ts'
import { seededRandom } from '../../gpu-backend/src/engine/random.ts'
import { startNode, type Child } from '../../infra/local/child.ts'
import {
  backendEnv,
  type BackendCaller,
  callerOf,
  makeServiceKeys,
  publishToy,
  startFakeEdge,
} from '../support/gpu-backend.ts'
import { makeScratch } from '../support/scratch.ts'
import {
  type Answer,
  type Ask,
  ask,
  closedLoop,
  openLoop,
  percentile,
  throughput,
  tpot,
  ttft,
} from './load.ts'

const root = new URL('../..', import.meta.url).pathname
const places = 32
const tokensEach = 64
const rounds = 5
/** Characters of a prompt that nearly fills the toy's 4,096 tokens of context. */
const longCharacters = 4_300
/** An answer is in time when it begins, and goes on, within this many times what one alone takes. */
const slack = 5

type Print = Parameters<Bench>[0]

interface Served {
  readonly caller: BackendCaller
  readonly child: Child
}

type Start = (changes: Readonly<Record<string, string>>) => Promise<Served>

/** Starts backends over one checkpoint, one folder of records each. */
async function prepare(): Promise<{ start: Start; close: () => Promise<void> }> {
  const keys = await makeServiceKeys()
  const scratch = await makeScratch('serve')
  const edge = await startFakeEdge(keys)
  const checkpoint = await publishToy(scratch.path)
  let started = 0
  const start: Start = async (changes) => {
    started += 1
    const spoolDir = join(scratch.path, `spool-${started}`)
    const env = backendEnv({
      keys,
      checkpoint,
      spoolDir,
      edgeUrl: edge.url,
      changes: {
        PATH: process.env['PATH'] ?? '',
        SLUICE_DEVICE: 'cpu',
        SLUICE_NUMERICS: 'fast',
        SLUICE_LOG: 'silent',
        SLUICE_MAX_SEQUENCES: String(places),
        ...changes,
      },
    })
    const ready = Promise.withResolvers<string>()
    const onLine = (line: string): void => {
      const url = /^\{"event":"ready","url":"([^"]+)"\}$/.exec(line)?.[1]
      if (url !== undefined) ready.resolve(url)
    }
    const child = startNode({ args: ['gpu-backend/src/main.ts'], cwd: root, env, onLine })
    void child.exited.then((how) => ready.reject(new Error(`the backend ended: ${how}`)))
    return { child, caller: callerOf(await ready.promise, keys) }
  }
  const close = async (): Promise<void> => {
    await edge.close()
    await scratch.remove()
  }
  return { start, close }
}

/** Texts of which no two begin alike. */
function texts(random: () => number): (characters: number) => string {
  return (characters) => {
    let text = ''
    while (text.length < characters) text += `${Math.floor(random() * 36 ** 6).toString(36)} `
    return text.slice(0, characters)
  }
}

interface Workload {
  readonly caller: BackendCaller
  readonly random: () => number
  readonly text: (characters: number) => string
  readonly print: Print
}

/** Tokens a second of closed loops, and how one client's answers look. */
async function benchClosed({ caller, text, print }: Workload): Promise<{
  readonly ratios: Record<string, number>
  readonly alone: readonly Answer[]
  readonly full: number
}> {
  const next = (): Ask => ({ text: text(60), maxTokens: tokensEach })
  await closedLoop(caller, { clients: places, each: 1, next })
  const best = new Map<number, number>()
  const alone: Answer[] = []
  for (let round = 0; round < rounds; round++) {
    for (const clients of [1, 8, places]) {
      const answers = await closedLoop(caller, { clients, each: clients === 1 ? 8 : 4, next })
      if (clients === 1) alone.push(...answers)
      best.set(clients, Math.max(best.get(clients) ?? 0, throughput(answers)))
    }
  }
  const one = best.get(1) ?? Number.NaN
  const ratios: Record<string, number> = {}
  for (const [clients, rate] of best) {
    print(`closed loop, ${String(clients).padStart(2)} clients   ${rate.toFixed(0)} tokens/s`)
    if (clients > 1) ratios[`closed loop: ${clients} clients, of one`] = round3(rate / one)
  }
  return { ratios, alone, full: best.get(places) ?? Number.NaN }
}

/** Random arrivals at a share of the sustained rate: how many answers are in time. */
async function benchOpen(
  { caller, random, text, print }: Workload,
  { alone, full }: { readonly alone: readonly Answer[]; readonly full: number },
): Promise<Record<string, number>> {
  const next = (): Ask => ({ text: text(60), maxTokens: tokensEach })
  const limits = { first: slack * median(alone.map(ttft)), each: slack * median(alone.map(tpot)) }
  const ratios: Record<string, number> = {}
  for (const share of [0.5, 0.8, 1.5]) {
    const perSecond = (share * full) / tokensEach
    const count = Math.ceil(Math.min(400, 4 * perSecond))
    const answers = await openLoop(caller, { perSecond, count, random, next })
    const taken = answers.filter(({ status }) => status === 200)
    const good = taken.filter((a) => ttft(a) <= limits.first && tpot(a) <= limits.each)
    const [p50, p99] = [0.5, 0.99].map((p) => percentile(taken.map(ttft), p).toFixed(1))
    print(
      `arrivals at ${share} of it   first token p50 ${p50} ms, p99 ${p99} ms, ` +
        `${good.length} of ${count} in time, ${count - taken.length} refused`,
    )
    ratios[`arrivals at ${share}: answers in time`] = round3(good.length / count)
  }
  return ratios
}

/** The first token of a long prompt, sent once and again. */
async function benchPrefix({ caller, text, print }: Workload): Promise<Record<string, number>> {
  const misses: number[] = []
  const hits: number[] = []
  let tokens = 0
  for (let round = 0; round < rounds; round++) {
    const long = { text: text(longCharacters), maxTokens: 4 }
    const miss = await ask(caller, long)
    const hit = await ask(caller, long)
    if (miss.status !== 200 || miss.cachedTokens !== 0 || hit.cachedTokens === 0) {
      throw new Error(
        `no miss and a hit: ${miss.status}, ${miss.cachedTokens}, ${hit.cachedTokens}`,
      )
    }
    misses.push(ttft(miss))
    hits.push(ttft(hit))
    tokens = miss.promptTokens
  }
  const [miss, hit] = [Math.min(...misses), Math.min(...hits)]
  print(
    `a prompt of ${tokens}     first token after ${miss.toFixed(1)} ms, ` +
      `again after ${hit.toFixed(1)} ms`,
  )
  return { 'first token of a long prompt: found, of not found': round3(hit / miss) }
}

/** The pace of one stream, alone and beside streams and long prompts of others. */
async function benchNeighbours({ caller, text, print }: Workload): Promise<Record<string, number>> {
  const own = (): Ask => ({ text: text(60), maxTokens: tokensEach })
  const alone: number[] = []
  const among: number[] = []
  for (let round = 0; round < rounds; round++) {
    alone.push(tpot(await ask(caller, own())))
    const others = closedLoop(caller, { clients: 7, each: 2, next: own })
    const prefills = closedLoop(caller, {
      clients: 1,
      each: 2,
      next: () => ({ text: text(longCharacters), maxTokens: 1 }),
    })
    among.push(tpot(await ask(caller, own())))
    await Promise.all([others, prefills])
  }
  print(
    `one stream           ${median(alone).toFixed(2)} ms a token alone, ` +
      `${median(among).toFixed(2)} ms beside seven streams and long prompts`,
  )
  return { 'ms a token: beside neighbours, of alone': round3(median(among) / median(alone)) }
}

/** Tokens a second of one stream, with guesses and without. */
async function benchSpeculation(
  start: Start,
  { text, print }: Omit<Workload, 'caller'>,
): Promise<Record<string, number>> {
  const kinds = { off: await start({ SLUICE_SPECULATION: '0' }), on: await start({}) }
  const best = { off: 0, on: 0 }
  for (let round = 0; round < rounds; round++) {
    for (const kind of ['off', 'on'] as const) {
      const answers = await closedLoop(kinds[kind].caller, {
        clients: 1,
        each: 4,
        next: () => ({ text: text(60), maxTokens: 4 * tokensEach }),
      })
      best[kind] = Math.max(best[kind], 1000 / median(answers.map(tpot)))
    }
  }
  for (const { child } of Object.values(kinds)) await child.stop(10_000)
  print(
    `speculation          ${best.on.toFixed(0)} tokens/s on, ${best.off.toFixed(0)} off ` +
      '(random weights: the draft block is seldom right)',
  )
  return { 'tokens/s of one stream: speculation on, of off': round3(best.on / best.off) }
}

export const serveBench: Bench = async (print) => {
  const { start, close } = await prepare()
  const random = seededRandom(1)
  const text = texts(random)
  // Random weights make the draft block useless: its own lines are at the end.
  const { caller, child } = await start({ SLUICE_SPECULATION: '0' })
  const workload = { caller, random, text, print }
  const closed = await benchClosed(workload)
  const open = await benchOpen(workload, closed)
  const prefix = await benchPrefix(workload)
  const neighbours = await benchNeighbours(workload)
  await child.stop(10_000)
  const speculation = await benchSpeculation(start, workload)
  await close()
  return {
    conditions: { cores: availableParallelism(), model: 'toy', device: 'cpu fast', tokensEach },
    ratios: { ...closed.ratios, ...open, ...prefix, ...neighbours, ...speculation },
  }
}
