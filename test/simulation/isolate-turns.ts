import type { Grant, PoolPolicy } from '../../edge/src/admission/pool-admission.ts'
import { TurnLeases } from '../../edge/src/admission/turn-leases.ts'
import type { StartedTurn, TurnNews } from '../../edge/src/admission/turn-leases.ts'
import type { SimEvent } from './events.ts'
import type { LentRoom, PoolActor, PoolReply } from './pool-actor.ts'
import type { Host, World } from './world.ts'

export interface IsolateTurnsDeps {
  readonly world: World
  readonly host: Host
  readonly pool: PoolActor
  readonly policy: PoolPolicy
  readonly log: (event: SimEvent) => void
  readonly newLeaseId: () => string
  /** By the isolate's clock. */
  readonly now: () => number
}

export type Turn =
  | { readonly status: 'granted'; readonly grant: Grant }
  | { readonly status: 'refused'; readonly reason: string }

export const TELL_EVERY_MS = 200
/** So many times without a new request, and what is in hand is given back. */
const IDLE_AFTER = 2
const NO_NEWS: TurnNews = { closed: [], ended: [] }
/** Longer than any answer takes to arrive that still arrives. */
const RPC_TIMEOUT_MS = 2000
const QUEUE_MS = 30_000

/** What an isolate does about a pool's turns, as the Worker's flow does it. */
export class IsolateTurns {
  readonly #deps: IsolateTurnsDeps
  readonly #leases = new TurnLeases()
  /** The lease that came last, which is the one that turns are started with. */
  #latest: LentRoom | null = null
  #told = new Set<string>()
  #tellingUntilMs = 0
  #countedBefore = 0
  #idleFor = 0

  constructor(deps: IsolateTurnsDeps) {
    this.#deps = deps
  }

  /** Out of a lease, and so at once, or from the pool's object. */
  take(turn: StartedTurn, reply: (turn: Turn) => void): void {
    const { world, policy, log, now } = this.#deps
    if (!this.#leases.start(turn, now())) return this.#ask(turn, reply)
    if (this.#latest === null) throw new Error('a turn starts with a lease that has come')
    const { backendId, lease } = this.#latest
    const dispatchByMs = world.nowMs + policy.dispatchWithinMs
    const { id: requestId, tokens } = turn
    const { leaseId } = lease
    log({ kind: 'turn_started', leaseId, requestId, backendId, tokens, dispatchByMs })
    const grant = { requestId, backendId, tokens, probe: false, dispatchByMs }
    reply({ status: 'granted', grant })
  }

  /** Was not dispatched: somebody may be waiting for its room right now. */
  giveBack(requestId: string): void {
    const { world, pool, log } = this.#deps
    log({ kind: 'turn_over', requestId })
    if (this.#leases.putBack(requestId)) return
    world.send(pool.host, () => pool.finish(requestId))
  }

  /** Has ended at its backend. */
  end(requestId: string): void {
    this.#deps.log({ kind: 'turn_over', requestId })
    this.#leases.end(requestId)
  }

  /** Tells the pool what became of turns and fetches the next ones, while there is any of either. */
  tick(): void {
    const { world, pool, host, now, newLeaseId } = this.#deps
    const leases = this.#leases
    if (world.nowMs < this.#tellingUntilMs) return
    this.#idleFor = leases.counted === this.#countedBefore ? this.#idleFor + 1 : 0
    this.#countedBefore = leases.counted
    if (this.#idleFor === IDLE_AFTER) leases.close()
    const askedAtMs = now()
    const renews = leases.wantsRenewal(askedAtMs)
    const news = leases.news(askedAtMs)
    if (news === null && !renews) return
    this.#logTold(news ?? NO_NEWS)
    const ask = renews ? leases.ask(newLeaseId(), askedAtMs) : null
    this.#tellingUntilMs = world.nowMs + 3 * TELL_EVERY_MS
    const answered = once((lent: LentRoom | null) => {
      this.#tellingUntilMs = 0
      if (news !== null) leases.acknowledge(news)
      if (lent !== null) this.#receive(lent, askedAtMs)
    })
    world.send(pool.host, () =>
      pool.tell(news ?? NO_NEWS, ask, (lent) => world.send(host, () => answered(lent))),
    )
  }

  #ask(turn: StartedTurn, reply: (turn: Turn) => void): void {
    const { world, host, pool, now, newLeaseId, log } = this.#deps
    const askedAtMs = now()
    const ask = this.#leases.ask(newLeaseId(), askedAtMs)
    const answered = once((answer: PoolReply | null) => {
      if (answer === null) {
        this.giveBack(turn.id)
        return reply({ status: 'refused', reason: 'queue_lost' })
      }
      if (answer.status === 'refused') {
        log({ kind: 'turn_over', requestId: turn.id })
        return reply(answer)
      }
      this.#leases.count(turn.tokens, now())
      if (answer.lent !== null) this.#receive(answer.lent, askedAtMs)
      reply({ status: 'granted', grant: answer.grant })
    })
    world.send(pool.host, () => {
      const waiter = { ...turn, weight: 1, band: 0, deadlineMs: world.nowMs + QUEUE_MS }
      pool.request(waiter, ask, (answer) => world.send(host, () => answered(answer)))
    })
    world.on(host, QUEUE_MS + RPC_TIMEOUT_MS, () => answered(null))
  }

  #receive(lent: LentRoom, askedAtMs: number): void {
    this.#leases.receive(lent.lease, askedAtMs)
    this.#latest = lent
  }

  #logTold({ closed }: TurnNews): void {
    for (const { leaseId, running } of closed) {
      if (this.#told.has(leaseId)) continue
      this.#told.add(leaseId)
      this.#deps.log({ kind: 'lease_told', leaseId, running })
    }
  }
}

function once<Value>(run: (value: Value) => void): (value: Value) => void {
  let over = false
  return (value) => {
    if (over) return
    over = true
    run(value)
  }
}
