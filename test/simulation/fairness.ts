import { DEFAULT_POOL_POLICY } from '../../edge/src/admission/pool-admission.ts'
import { BackendActor } from './backend-actor.ts'
import type { Dispatch } from './backend-actor.ts'
import { PoolActor } from './pool-actor.ts'
import { NO_FAULTS, World } from './world.ts'

/** A tenant of a busy pool: how its requests come, and what it weighs. */
export interface Neighbour {
  readonly tenantId: string
  readonly weight: number
  /** Requests a minute, Poisson; or so many that always wait. */
  readonly perMinute?: number
  readonly backlog?: number
}

export interface NeighbourResult {
  /** Estimated tokens it was given turns for, after the first seconds. */
  readonly tokens: number
  /** From asking for a turn to being given it, in milliseconds, ascending. */
  readonly waits: readonly number[]
  /** From being given a turn to the last token, on average. */
  readonly serviceMs: number
}

const WARM_UP_MS = 20_000
const CACHE_TOKENS = 40_000
const NEVER_MS = 1e9

interface Tally {
  tokens: number
  waits: number[]
  served: number
  serviceMs: number
}

/** A pool with one backend, and tenants who want more than it can give for `seconds`. */
export function runNeighbours(
  neighbours: readonly Neighbour[],
  seconds: number,
  seed: number,
): ReadonlyMap<string, NeighbourResult> {
  const run = new NeighbourhoodRun(seed)
  return run.run(neighbours, seconds)
}

class NeighbourhoodRun {
  readonly #world: World
  readonly #pool: PoolActor
  readonly #backend: BackendActor
  readonly #tallies = new Map<string, Tally>()
  readonly #fromMs: number
  #serial = 0

  constructor(seed: number) {
    this.#world = new World(seed, NO_FAULTS)
    this.#fromMs = this.#world.nowMs + WARM_UP_MS
    const policy = { ...DEFAULT_POOL_POLICY, reportIntervalMs: 250 }
    this.#pool = new PoolActor(this.#world, policy, () => {})
    this.#backend = new BackendActor(this.#world, 'b', CACHE_TOKENS, () => {})
  }

  run(neighbours: readonly Neighbour[], seconds: number): ReadonlyMap<string, NeighbourResult> {
    const endMs = this.#fromMs + seconds * 1000
    this.#report(endMs)
    for (const neighbour of neighbours) {
      this.#tallies.set(neighbour.tenantId, { tokens: 0, waits: [], served: 0, serviceMs: 0 })
      for (let one = 0; one < (neighbour.backlog ?? 0); one++) this.#ask(neighbour, endMs)
      if (neighbour.perMinute !== undefined) this.#comeAgain(neighbour, neighbour.perMinute, endMs)
    }
    this.#world.runUntil(endMs)
    return new Map(
      [...this.#tallies].map(([tenantId, { tokens, waits, served, serviceMs }]) => [
        tenantId,
        {
          tokens,
          waits: waits.toSorted((a, b) => a - b),
          serviceMs: serviceMs / Math.max(1, served),
        },
      ]),
    )
  }

  #report(endMs: number): void {
    if (this.#world.nowMs > endMs) return
    this.#pool.report(this.#backend.report(), this.#world.nowMs)
    this.#pool.tick()
    this.#world.after(250, () => this.#report(endMs))
  }

  #comeAgain(neighbour: Neighbour, perMinute: number, endMs: number): void {
    this.#world.after(this.#world.random.exponential(60_000 / perMinute), () => {
      this.#ask(neighbour, endMs)
      this.#comeAgain(neighbour, perMinute, endMs)
    })
  }

  #ask(neighbour: Neighbour, endMs: number): void {
    if (this.#world.nowMs >= endMs) return
    const { random } = this.#world
    const askedAtMs = this.#world.nowMs
    const promptTokens = random.between(200, 1500)
    const naturalTokens = random.between(100, 500)
    const id = `${neighbour.tenantId}-${this.#serial++}`
    const waiter = {
      id,
      tenantId: neighbour.tenantId,
      weight: neighbour.weight,
      band: 0,
      tokens: promptTokens + naturalTokens,
      deadlineMs: NEVER_MS,
    }
    this.#pool.request(waiter, null, (reply) => {
      // Refused for want of room in the queue: a client of this kind has more where it came from.
      if (reply.status !== 'granted') return
      this.#tally(neighbour.tenantId, askedAtMs, waiter.tokens)
      const dispatch: Dispatch = {
        requestId: id,
        tenantId: neighbour.tenantId,
        projectId: 'p',
        keyId: 'k',
        model: 'm',
        promptTokens,
        cachedTokens: 0,
        naturalTokens,
        grantedOutputTokens: naturalTokens,
        breaks: false,
        dispatchByMs: reply.grant.dispatchByMs,
      }
      this.#start(neighbour, dispatch, endMs)
    })
  }

  #start(neighbour: Neighbour, dispatch: Dispatch, endMs: number): void {
    const startedAtMs = this.#world.nowMs
    this.#world.after(2, () =>
      this.#backend.dispatch(dispatch, () => {
        const tally = this.#tallies.get(neighbour.tenantId)
        if (tally !== undefined) {
          tally.served++
          tally.serviceMs += this.#world.nowMs - startedAtMs
        }
        this.#world.after(1, () => this.#pool.finish(dispatch.requestId))
      }),
    )
    // Whoever keeps a backlog sends the next one.
    if (neighbour.backlog !== undefined) this.#world.after(0, () => this.#ask(neighbour, endMs))
  }

  #tally(tenantId: string, askedAtMs: number, tokens: number): void {
    const tally = this.#tallies.get(tenantId)
    if (tally === undefined || this.#world.nowMs < this.#fromMs) return
    tally.tokens += tokens
    tally.waits.push(this.#world.nowMs - askedAtMs)
  }
}
