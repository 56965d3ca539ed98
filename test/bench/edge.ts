/**
 * What the edge costs: `npm run bench -- edge`. Backend, load and gateways are processes of their
 * own on one machine, so read differences between lines, not the lines. Every way to the backend
 * takes its turn in every round: none; a Worker that only forwards; the edge on workerd itself, as
 * in production; behind Miniflare, as in `npm start`; and, where it is installed, a peer.
 */
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { median, round3, type Bench } from '../../gpu-backend/bench/bench.ts'
import { runPolicy } from '../simulation/policies.ts'
import type { Policy, Shape } from '../simulation/policies.ts'
import { cpuMsOf, machineTime } from './edge-figures.ts'
import { DIRECT, EDGE, FORWARD, PEER, startWorld } from './edge-hops.ts'
import type { Hop, World } from './edge-hops.ts'
import { HOW_TO_GET_THE_PEER } from './edge-peer.ts'
import { benchStreams } from './edge-streams.ts'
import { percentile } from './load.ts'

type Print = Parameters<Bench>[0]
type Ratios = Record<string, number>

const ONE_AT_A_TIME = { rounds: 5, requests: 300 }
const MANY = { rounds: 2, connections: 32, seconds: 3 }
const FIRST_CHUNK = { rounds: 4, requests: 150 }
const CHUNKS = { connections: 16, requests: 32, events: 200, gapMs: 2 }
const REVOCATION_MAX_MS = 2_000
const POLICY_SEEDS = 5
const STREAM_BODY = {
  body: '{"model":"deepseek-v4-toy","messages":[{"role":"user","content":"Hi"}],"stream":true}',
}

/** One figure of each hop, of each round. */
class Figures {
  readonly #rounds = new Map<string, number[]>()

  add(name: string, figure: number): void {
    this.#rounds.set(name, [...(this.#rounds.get(name) ?? []), figure])
  }

  /** The middle round. */
  of(name: string): number {
    return median(this.#rounds.get(name) ?? [])
  }

  /** What a hop adds to another, round by round: they were measured one right after the other. */
  added(name: string, to: string): number {
    const base = this.#rounds.get(to) ?? []
    return median(
      (this.#rounds.get(name) ?? []).map((figure, round) => figure - (base[round] ?? 0)),
    )
  }
}

/** Leases follow the traffic from one second to the next, and many connections take some to fill. */
async function warmUp(world: World, hop: Hop, connections: number): Promise<void> {
  const secondsMax = hop.warmUpSeconds * (connections > 1 ? 1.6 : 1)
  await world.load({ connections, secondsMax }, hop)
}

/** Small whole answers, the next when the last has come. */
async function benchOneAtATime(world: World, print: Print): Promise<Ratios> {
  const [p50, p99] = [new Figures(), new Figures()]
  const { rounds, requests } = ONE_AT_A_TIME
  for (let round = 0; round < rounds; round += 1) {
    for (const hop of world.hops) {
      await warmUp(world, hop, 1)
      const { latenciesMs } = await world.load({ requestsMax: requests }, hop)
      p50.add(hop.name, median(latenciesMs))
      p99.add(hop.name, percentile(latenciesMs, 0.99))
    }
  }
  print(`a small whole answer, one at a time, middle of ${rounds} rounds of ${requests}:`)
  for (const { name } of world.hops) {
    const added = name === DIRECT ? '' : `, adds ${p50.added(name, DIRECT).toFixed(2)} ms at p50`
    print(`  ${name}: p50 ${p50.of(name).toFixed(2)} ms, p99 ${p99.of(name).toFixed(2)} ms${added}`)
  }
  return {
    'added p50: the edge, of 0.6 ms': p50.added(EDGE, DIRECT) / 0.6,
    'p99: the edge, of 3 ms': p99.of(EDGE) / 3,
    ...beside(world, 'added p50', (name) => p50.added(name, DIRECT)),
  }
}

/** The edge's figure, of the plain forward's and of the peer's. */
function beside(world: World, kind: string, figure: (name: string) => number): Ratios {
  const others = world.hops.filter(({ name }) => name === FORWARD || name === PEER)
  return Object.fromEntries(
    others.map(({ name }) => [`${kind}: the edge, of ${name}’s`, figure(EDGE) / figure(name)]),
  )
}

/** As many requests as connections; what each costs of a processor, and how many that makes. */
async function benchMany(world: World, print: Print): Promise<Ratios> {
  const [perSecond, cpuMs] = [new Figures(), new Figures()]
  const { rounds, connections, seconds } = MANY
  let leases: Readonly<Record<string, number>> = {}
  for (let round = 0; round < rounds; round += 1) {
    for (const hop of world.hops) {
      await warmUp(world, hop, connections)
      const logged = hop.name === EDGE ? (await readFile(world.edgeLog)).byteLength : 0
      const before = hop.pid === null ? 0 : await cpuMsOf(hop.pid)
      const { latenciesMs, seconds: took } = await world.load(
        { connections, secondsMax: seconds },
        hop,
      )
      perSecond.add(hop.name, latenciesMs.length / took)
      if (hop.pid !== null) {
        cpuMs.add(hop.name, ((await cpuMsOf(hop.pid)) - before) / latenciesMs.length)
      }
      if (hop.name === EDGE) leases = await admissionsSince(world.edgeLog, logged)
    }
  }
  print(`the same over ${connections} connections, middle of ${rounds} rounds of ${seconds} s:`)
  for (const { name, pid } of world.hops) {
    const each = cpuMs.of(name)
    const cost = pid === null ? '' : `, ${each.toFixed(2)} ms of a processor each`
    const full = pid === null ? '' : `: ${Math.round(1000 / each)} requests/s of a whole one`
    print(`  ${name}: ${Math.round(perSecond.of(name))} requests/s${cost}${full}`)
  }
  const admitted = Object.values(leases).reduce((sum, count) => sum + count, 0)
  const hits = (leases['lease'] ?? 0) / admitted
  print(`  let in by a lease: ${(100 * hits).toFixed(2)} % of ${admitted}, the last round`)
  return {
    'lease hits': hits,
    'requests/s: the edge, of 3000': perSecond.of(EDGE) / 3000,
    ...beside(world, 'requests/s', (name) => perSecond.of(name)),
    ...beside(world, 'processor time a request', (name) => cpuMs.of(name)),
  }
}

/** How the requests were let in whose lines stand behind `fromByte`. */
async function admissionsSince(log: string, fromByte: number): Promise<Record<string, number>> {
  const text = (await readFile(log)).subarray(fromByte).toString()
  const counts: Record<string, number> = {}
  for (const [, how = ''] of text.matchAll(/"admitted_by":"(\w+)"/g)) {
    counts[how] = (counts[how] ?? 0) + 1
  }
  return counts
}

/**
 * From the backend's writing of a stream's first event to its arrival. Without the peer, as the next
 * one: it answers 500 to streams under this Node.
 */
async function benchFirstChunk(world: World, print: Print): Promise<Ratios> {
  const hops = world.hops.filter(({ name }) => [DIRECT, FORWARD, EDGE].includes(name))
  const [p50, p99] = [new Figures(), new Figures()]
  world.stream(2, 1)
  for (let round = 0; round < FIRST_CHUNK.rounds; round += 1) {
    for (const hop of hops) {
      await warmUp(world, hop, 1)
      const requestsMax = FIRST_CHUNK.requests
      const { firstChunkMs } = await world.load({ ...STREAM_BODY, requestsMax }, hop)
      p50.add(hop.name, median(firstChunkMs))
      p99.add(hop.name, percentile(firstChunkMs, 0.99))
    }
  }
  print(`a stream’s first event, from its writing to its arrival:`)
  for (const { name } of hops) {
    print(`  ${name}: p50 ${p50.of(name).toFixed(2)} ms, p99 ${p99.of(name).toFixed(2)} ms`)
  }
  return { 'first chunk p50: the edge, of one relay’s': p50.of(EDGE) / p50.of(FORWARD) }
}

/** What passing one event on costs, at a pace at which they are not put together. */
async function benchChunks(world: World, print: Print): Promise<Ratios> {
  const { connections, requests, events, gapMs } = CHUNKS
  const each = new Figures()
  world.stream(events, gapMs)
  print(`an event of ${connections} streams with one every ${gapMs} ms, of a processor:`)
  for (const hop of world.hops) {
    if (hop.pid === null || hop.name === PEER) continue
    await warmUp(world, hop, connections)
    const before = await cpuMsOf(hop.pid)
    await world.load({ ...STREAM_BODY, connections, requestsMax: requests }, hop)
    const costMs = ((await cpuMsOf(hop.pid)) - before) / (requests * events)
    each.add(hop.name, costMs)
    print(`  ${hop.name}: ${(1000 * costMs).toFixed(0)} µs`)
  }
  return { 'processor time an event: the edge, of one relay’s': each.of(EDGE) / each.of(FORWARD) }
}

/** How long a busy key goes on working after its revocation has been acknowledged. */
async function benchRevocation(world: World, print: Print): Promise<Ratios> {
  const hop = world.hops.find(({ name }) => name === EDGE)
  if (hop === undefined) throw new Error('the edge is one of the hops')
  await warmUp(world, hop, 1)
  const { url, adminToken, keyPath } = world.edge
  const init = { method: 'DELETE', headers: { authorization: `Bearer ${adminToken}` } }
  const revoked = await fetch(`${url}${keyPath}`, init)
  if (!revoked.ok) throw new Error(`revoking the key answered ${revoked.status}`)
  const acknowledgedAtMs = performance.now()
  let workedUntilMs = acknowledgedAtMs
  for (;;) {
    const response = await fetch(`${hop.url}/v1/chat/completions`, {
      method: 'POST',
      headers: { ...hop.headers, 'content-type': 'application/json' },
      body: STREAM_BODY.body,
    })
    await response.arrayBuffer()
    if (response.status === 401) break
    workedUntilMs = performance.now()
    if (workedUntilMs - acknowledgedAtMs > 5 * REVOCATION_MAX_MS) break
  }
  const tookMs = workedUntilMs - acknowledgedAtMs
  print(`a busy key worked on for ${(tookMs / 1000).toFixed(2)} s after its revocation`)
  return { 'revocation, of 2 s': tookMs / REVOCATION_MAX_MS }
}

/** The simulation's customer with a cap, three times overloaded: what counting when costs. */
function benchPolicies(print: Print): Ratios {
  const cases: readonly (readonly [Policy, string, Shape])[] = [
    ['after_response', 'counted after the response', 'bursts of 50'],
    ['ours', 'ours', 'bursts of 50'],
    ['ours', 'ours', 'bursts of 300'],
  ]
  print(`worst minute over the cap and use of it, ${POLICY_SEEDS} seeds:`)
  const ratios: Ratios = {}
  for (const [policy, name, shape] of cases) {
    const runs = Array.from({ length: POLICY_SEEDS }, (_, seed) =>
      runPolicy(policy, shape, seed + 1),
    )
    const mean = (values: readonly number[]): number =>
      values.reduce((sum, value) => sum + value, 0) / values.length
    const worst = mean(runs.map(({ worstMinute }) => worstMinute))
    const used = mean(runs.map(({ utilisation }) => utilisation))
    print(`  ${name}, ${shape}: ${worst.toFixed(2)} of the cap, ${used.toFixed(2)} used`)
    ratios[`worst minute, of the cap: ${name}, ${shape}`] = worst
    ratios[`use of the cap: ${name}, ${shape}`] = used
  }
  return ratios
}

export const edgeBench: Bench = async (print) => {
  const dir = await mkdtemp(join(tmpdir(), 'sluice-bench-'))
  const before = await machineTime()
  const world = await startWorld(dir)
  if (world.peerVersion === null) print(HOW_TO_GET_THE_PEER)
  const ratios: Ratios = {
    ...(await benchOneAtATime(world, print)),
    ...(await benchMany(world, print)),
    ...(await benchFirstChunk(world, print)),
    ...(await benchChunks(world, print)),
    ...(await benchRevocation(world, print)),
  }
  await world.close()
  Object.assign(ratios, await benchStreams(print, join(dir, 'streams')), benchPolicies(print))
  await rm(dir, { recursive: true })
  const after = await machineTime()
  const stolen = (after.stolen - before.stolen) / (after.total - before.total)
  return {
    conditions: {
      cores: availableParallelism(),
      peer: world.peerVersion ?? 'none',
      connections: MANY.connections,
      takenByTheHost: round3(stolen),
    },
    ratios: Object.fromEntries(
      Object.entries(ratios).map(([name, value]) => [name, round3(value)]),
    ),
  }
}
