import { PoolAdmission, quietUntilMs } from '../../edge/src/admission/pool-admission.ts'
import { GRANTED_AT_STEP_MS } from '../../edge/src/admission/pool-admission.ts'
import type { Capacity, Grant, PoolPolicy } from '../../edge/src/admission/pool-admission.ts'
import type { Waiter } from '../../edge/src/admission/fair-queue.ts'
import type { TurnLease, TurnLeaseAsk, TurnNews } from '../../edge/src/admission/turn-leases.ts'
import type { PoolEvent, SimEvent } from './events.ts'
import type { Host, World } from './world.ts'

/** Room that was lent, and where it is: in production a pool has one address for all its backends. */
export interface LentRoom {
  readonly lease: TurnLease
  readonly backendId: string
}

export type PoolReply =
  | { readonly status: 'granted'; readonly grant: Grant; readonly lent: LentRoom | null }
  | { readonly status: 'refused'; readonly reason: string }

/** Where a call of an object may be cut off: nothing after that happens, what was in memory is gone. */
const CRASH_POINTS = ['before', 'unwritten', 'unanswered', 'after'] as const
type CrashPoint = (typeof CRASH_POINTS)[number]

/**
 * A pool object: its queue is open connections and dies with it, and so does what it has lent; it
 * remembers when it last granted. Nobody hears of a call before what it wrote is safe.
 */
export class PoolActor {
  readonly host: Host = { awakeFromMs: 0 }
  crashes = 0
  readonly #world: World
  readonly #policy: PoolPolicy
  readonly #log: (event: SimEvent) => void
  #admission: PoolAdmission
  #callers = new Map<string, { waiter: Waiter; reply: (reply: PoolReply) => void }>()
  #backendIds = new Set<string>()
  #lentAt = new Map<string, string>()
  #grantedAtMs = -Infinity
  /** What survives. */
  #storedAtMs = 0
  #crash: CrashPoint | null = null
  /** Of the call that runs: what it did, and what it answers to whom. */
  #done: SimEvent[] = []
  #answers: (() => void)[] = []
  #served = false

  constructor(world: World, policy: PoolPolicy, log: (event: SimEvent) => void) {
    this.#world = world
    this.#policy = policy
    this.#log = log
    this.#admission = new PoolAdmission(policy)
  }

  report(report: Capacity, madeAtMs: number): void {
    this.#call(() => {
      const { backendId, draining } = report
      this.#backendIds.add(backendId)
      if (!this.#admission.report(report, this.#world.nowMs)) return
      const freeTokens = Math.max(0, report.freeCacheTokens - report.waitingTokens)
      const progress = report.progress.map(({ requestId }) => requestId)
      this.#did({ kind: 'reported', backendId, freeTokens, draining, progress, madeAtMs })
      this.#dispatch()
    })
  }

  /** The connection that a backend's reports come over is broken. */
  forget(backendId: string): void {
    this.#call(() => {
      this.#admission.forget(backendId)
      this.#did({ kind: 'out_of_reach', backendId })
    })
  }

  /** A repeated call answers where the first one waits. */
  request(waiter: Waiter, ask: TurnLeaseAsk | null, reply: (reply: PoolReply) => void): void {
    this.#call(() => {
      if (this.#callers.has(waiter.id)) return
      const answer = this.#admission.request(waiter, this.#world.nowMs)
      if (answer.status === 'waiting') {
        this.#callers.set(waiter.id, { waiter, reply })
        this.#did({ kind: 'waits', waiter })
      } else if (answer.status === 'granted') {
        this.#answerGrant({ waiter, grant: answer.grant, ask, reply })
      } else {
        this.#answers.push(() => reply(answer))
      }
    }, reply)
  }

  /** Whoever waited has gone, was not dispatched after all, or has ended. */
  finish(requestId: string): void {
    this.#call(() => {
      this.#end(requestId)
      this.#dispatch()
    })
  }

  /** What an isolate did with its turns; answers with its next lease where it asks for one. */
  tell(
    { closed, ended }: TurnNews,
    ask: TurnLeaseAsk | null,
    reply: (lent: LentRoom | null) => void,
  ): void {
    this.#call(() => {
      for (const lease of closed) {
        this.#admission.close(lease, this.#world.nowMs)
        this.#did({ kind: 'lease_closed', ...lease })
      }
      for (const requestId of ended) this.#end(requestId)
      this.#dispatch()
      const lent = this.#lend(ask)
      this.#answers.push(() => reply(lent))
    })
  }

  tick(): void {
    this.#call(() => this.#dispatch())
  }

  /** Dies in the next call. */
  crash(): void {
    this.#crash = this.#world.random.pick(CRASH_POINTS)
  }

  #call(run: () => void, reply?: (reply: PoolReply) => void): void {
    if (this.#crash === 'before') return this.#die(reply)
    const storedAtMs = this.#storedAtMs
    this.#served = false
    run()
    const credits = [...this.#backendIds].map((backendId) => ({
      backendId,
      tokens: this.#admission.credits(backendId, this.#world.nowMs),
    }))
    this.#did({ kind: 'pool_says', credits, served: this.#served })
    // For want of a write it dies in a later call.
    const waits = this.#crash === 'unwritten' && this.#storedAtMs === storedAtMs
    const crash = waits ? null : this.#crash
    const [done, answers] = [this.#done, this.#answers]
    this.#done = []
    this.#answers = []
    if (crash === 'unwritten') this.#storedAtMs = storedAtMs
    if (crash === null || crash === 'after') {
      for (const event of done) this.#log(event)
      for (const answer of answers) answer()
    }
    if (crash !== null) this.#die(reply)
  }

  #die(reply?: (reply: PoolReply) => void): void {
    const { nowMs, random } = this.#world
    this.#crash = null
    this.crashes++
    this.host.awakeFromMs = nowMs + random.between(0, 300)
    this.#grantedAtMs = -Infinity
    const quietMs = quietUntilMs(this.#storedAtMs, this.#policy)
    this.#admission = new PoolAdmission(this.#policy, quietMs)
    this.#backendIds = new Set()
    this.#lentAt = new Map()
    this.#log({ kind: 'pool_restarted', quietUntilMs: quietMs })
    const callers = [...this.#callers.values()]
    this.#callers = new Map()
    // A second answer to the same call is not looked at.
    reply?.({ status: 'refused', reason: 'broken' })
    for (const caller of callers) caller.reply({ status: 'refused', reason: 'broken' })
  }

  #end(requestId: string): void {
    this.#admission.cancel(requestId)
    this.#admission.finish(requestId)
    this.#callers.delete(requestId)
    this.#did({ kind: 'waits_no_more', requestId })
    this.#did({ kind: 'grant_ended', requestId })
  }

  #dispatch(): void {
    this.#served = true
    for (const waiter of this.#admission.expire(this.#world.nowMs)) {
      const caller = this.#callers.get(waiter.id)
      this.#callers.delete(waiter.id)
      this.#did({ kind: 'turn', requestId: waiter.id, deadlineMs: waiter.deadlineMs })
      this.#did({ kind: 'waits_no_more', requestId: waiter.id })
      this.#answers.push(() => caller?.reply({ status: 'refused', reason: 'deadline' }))
    }
    for (const grant of this.#admission.dispatch(this.#world.nowMs)) {
      const caller = this.#callers.get(grant.requestId)
      if (caller === undefined) continue
      this.#callers.delete(grant.requestId)
      this.#answerGrant({ ...caller, grant, ask: null })
    }
  }

  #answerGrant(granted: {
    readonly waiter: Waiter
    readonly grant: Grant
    readonly ask: TurnLeaseAsk | null
    readonly reply: (reply: PoolReply) => void
  }): void {
    const { waiter, grant, ask, reply } = granted
    const { requestId } = grant
    this.#noteGrant()
    this.#did({ kind: 'turn', requestId, deadlineMs: waiter.deadlineMs })
    this.#did({ kind: 'waits_no_more', requestId })
    this.#did({ kind: 'granted', ...grant })
    const lent = this.#lend(ask)
    this.#answers.push(() => reply({ status: 'granted', grant, lent }))
  }

  #lend(ask: TurnLeaseAsk | null): LentRoom | null {
    if (ask === null) return null
    const { nowMs } = this.#world
    const backends = [...this.#backendIds]
    const before = backends.map((id) => this.#admission.credits(id, nowMs))
    const lease = this.#admission.lend(ask, nowMs)
    if (lease === null) return null
    this.#noteGrant()
    const fallen = backends.find(
      (id, index) => this.#admission.credits(id, nowMs) < (before[index] ?? 0),
    )
    const backendId = fallen ?? this.#lentAt.get(lease.leaseId) ?? null
    this.#did({ kind: 'turns_lent', ...lease, backendId })
    if (backendId === null) return null
    this.#lentAt.set(lease.leaseId, backendId)
    return { lease, backendId }
  }

  #noteGrant(): void {
    const { nowMs } = this.#world
    if (nowMs - this.#grantedAtMs < GRANTED_AT_STEP_MS) return
    this.#grantedAtMs = nowMs
    this.#storedAtMs = nowMs
  }

  #did(event: SimEvent | PoolEvent): void {
    this.#done.push(event)
  }
}
