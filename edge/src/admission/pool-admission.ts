import type { CapacityReport } from '#protocol/capacity-report.ts'
import { FairQueue } from './fair-queue.ts'
import type { FairQueueLimits, Waiter } from './fair-queue.ts'
import type { ClosedTurns, TurnLease, TurnLeaseAsk } from './turn-leases.ts'

/** What credits are made of; the other members of a report are the caller's. */
export type Capacity = Pick<
  CapacityReport,
  | 'backendId'
  | 'incarnation'
  | 'seq'
  | 'freeCacheTokens'
  | 'cacheTokensMax'
  | 'waitingTokens'
  | 'draining'
  | 'progress'
>

export interface PoolPolicy {
  readonly reportIntervalMs: number
  /** How long a grant may be on its way: a dispatch arrives within this or not at all. */
  readonly dispatchWithinMs: number
  /**
   * A grant counts against credits until a report shows its request, or up to the first report that
   * comes after this: made when the request had arrived, if it ever did.
   */
  readonly grantTtlMs: number
  /** How long an isolate may give out the turns it was lent. */
  readonly leaseTtlMs: number
  /** One probe at a time, this far apart, to a backend that has gone silent. */
  readonly probeEveryMs: number
  readonly queue: FairQueueLimits
}

export const DEFAULT_POOL_POLICY: PoolPolicy = {
  reportIntervalMs: 500,
  dispatchWithinMs: 2000,
  grantTtlMs: 3000,
  leaseTtlMs: 800,
  probeEveryMs: 5000,
  queue: { bandFloors: [0, 0.1, 0.05], waitersMax: 4096, tokensMax: 64 * 1024 * 1024 },
}

/** Leave to dispatch one request to one backend, now. */
export interface Grant {
  readonly requestId: string
  readonly backendId: string
  readonly tokens: number
  /** Sent to a silent backend to find out whether it lives. */
  readonly probe: boolean
  readonly dispatchByMs: number
}

export type PoolAnswer =
  | { readonly status: 'granted'; readonly grant: Grant }
  | { readonly status: 'waiting' }
  /** `too_large`: no backend could hold it even when idle. */
  | { readonly status: 'refused'; readonly reason: 'full' | 'too_large' | 'no_backend' }

interface BackendState {
  readonly report: Capacity
  readonly receivedAtMs: number
  readonly grants: Map<string, Granted>
  readonly lent: Map<string, Lent>
  lastProbeAtMs: number
}

/** What a report that comes before `untilMs` may not show yet. */
interface Lent {
  readonly tokens: number
  readonly untilMs: number
}

interface Granted extends Lent {
  readonly grant: Grant
}

/** The time of the last grant is kept to this: it is too much to write it with each of them. */
export const GRANTED_AT_STEP_MS = 1000

/** From when on a new object may grant, by the time its predecessor kept of what it granted last. */
export function quietUntilMs(
  grantedAtMs: number,
  { leaseTtlMs, grantTtlMs }: PoolPolicy = DEFAULT_POOL_POLICY,
): number {
  return grantedAtMs + GRANTED_AT_STEP_MS + leaseTtlMs + grantTtlMs
}

const DECAY_FROM_MISSED = 2
const SILENT_FROM_MISSED = 5
const RETIRED_MAX = 64
/** Of what is free, at most this share is lent to one isolate at a time, and that to all together. */
const LENT_SHARE = 1 / 8
const LENT_SHARE_ALL = 1 / 2

/**
 * A pool's capacity, shared out: reports become credits, requests wait their turn for them. State
 * is in memory, since waiters are open connections; a new object must not grant before
 * `quietUntilMs`, when nothing that its predecessor granted can still be on its way unseen.
 */
export class PoolAdmission {
  readonly #policy: PoolPolicy
  readonly #quietUntilMs: number
  readonly #queue: FairQueue
  readonly #backends = new Map<string, BackendState>()
  /** Incarnations that another has followed; what still comes of them is old. */
  #retired: string[] = []
  #dispatchedAtMs = 0

  constructor(policy: PoolPolicy = DEFAULT_POOL_POLICY, quietUntilMs = 0) {
    this.#policy = policy
    this.#quietUntilMs = quietUntilMs
    this.#queue = new FairQueue(policy.queue)
  }

  get waiting(): { readonly waiters: number; readonly tokens: number } {
    return this.#queue.size
  }

  /** Takes a report in; false for one that is older than what is known. */
  report(report: Capacity, nowMs: number): boolean {
    const known = this.#backends.get(report.backendId)
    if (this.#retired.includes(report.incarnation)) return false
    const same = known?.report.incarnation === report.incarnation
    if (same && report.seq <= known.report.seq) return false
    if (!same && known !== undefined) {
      this.#retired = [...this.#retired, known.report.incarnation].slice(-RETIRED_MAX)
    }
    // What is on its way reaches whatever process answers at that address by then.
    const grants = known?.grants ?? new Map<string, Granted>()
    for (const { requestId } of report.progress) grants.delete(requestId)
    const lent = known?.lent ?? new Map<string, Lent>()
    const lastProbeAtMs = same ? known.lastProbeAtMs : -Infinity
    const state = { report, receivedAtMs: nowMs, grants, lent, lastProbeAtMs }
    this.#backends.set(report.backendId, state)
    return true
  }

  /** A backend is out of reach: it gets nothing more until it reports again, be it the same process. */
  forget(backendId: string): void {
    const known = this.#backends.get(backendId)
    if (known === undefined) return
    this.#backends.set(backendId, { ...known, report: { ...known.report, draining: true } })
  }

  /**
   * Gives leave at once when nobody waits and there is room, a place in the queue otherwise. Asked
   * again, it gives the grant there is, or says that the request still waits.
   */
  request(waiter: Waiter, nowMs: number): PoolAnswer {
    const existing = this.#grantOf(waiter.id, nowMs)
    if (existing !== null) return { status: 'granted', grant: existing }
    if (this.#queue.has(waiter.id)) return { status: 'waiting' }
    if (this.#backends.size > 0 && waiter.tokens > this.#largestBackend()) {
      return { status: 'refused', reason: 'too_large' }
    }
    if (this.#queue.size.waiters === 0) {
      const grant = this.#grant(waiter, nowMs)
      if (grant !== null) return { status: 'granted', grant }
    }
    return this.#queue.enqueue(waiter)
      ? { status: 'waiting' }
      : { status: 'refused', reason: 'full' }
  }

  /**
   * Lends an isolate room for its next requests, which it then starts without asking, while nobody
   * waits and there is plenty. What is lent counts as granted until it is closed or must have shown.
   * Asked again for the same lease, it gives the one there is.
   */
  lend(ask: TurnLeaseAsk, nowMs: number): TurnLease | null {
    const existing = this.#lentAs(ask.leaseId)
    if (existing !== null) return existing
    if (this.#queue.size.waiters > 0) return null
    const best = this.#ranked(nowMs)[0]
    if (best === undefined) return null
    const { backend, credits } = best
    const lent = sumTokens(backend.lent)
    const lendable = Math.floor((credits + lent) * LENT_SHARE_ALL) - lent
    const tokens = Math.min(ask.tokens, Math.floor(credits * LENT_SHARE), lendable)
    if (tokens < 1) return null
    const { leaseTtlMs, grantTtlMs } = this.#policy
    backend.lent.set(ask.leaseId, { tokens, untilMs: nowMs + leaseTtlMs + grantTtlMs })
    return { leaseId: ask.leaseId, tokens, ttlMs: leaseTtlMs }
  }

  /** A lease is over: what still runs of it is granted by name, the rest is free again. */
  close({ leaseId, running }: ClosedTurns, nowMs: number): void {
    for (const backend of this.#backends.values()) {
      // Of a lease that has lapsed everything has shown in a report by now.
      this.#forgetShown(backend, nowMs)
      if (!backend.lent.delete(leaseId)) continue
      for (const turn of running) this.#put(backend, turn, nowMs)
    }
  }

  /** Everyone whose turn has come: call after a report, an end, or a tick. */
  dispatch(nowMs: number): readonly Grant[] {
    this.#dispatchedAtMs = nowMs
    const grants: Grant[] = []
    for (;;) {
      const next = this.#queue.peek()
      if (next === null) return grants
      // Whoever is overdue is answered by `expire`, not served late.
      const grant = next.deadlineMs <= nowMs ? null : this.#grant(next, nowMs)
      if (grant === null) return grants
      this.#queue.take()
      grants.push(grant)
    }
  }

  /** Takes out those whose deadline has come. Call before `dispatch`, at every tick. */
  expire(nowMs: number): readonly Waiter[] {
    return this.#queue.expire(nowMs)
  }

  /** Whoever waited has gone away. */
  cancel(requestId: string): boolean {
    return this.#queue.remove(requestId)
  }

  /** A granted request was not dispatched, or has ended: its grant no longer counts. */
  finish(requestId: string): void {
    for (const { grants } of this.#backends.values()) grants.delete(requestId)
  }

  /** When `expire` or `dispatch` has something to do at the latest; null when nobody waits. */
  nextTickMs(): number | null {
    const deadline = this.#queue.firstDeadlineMs()
    if (deadline === null) return null
    return Math.min(deadline, this.#dispatchedAtMs + this.#policy.reportIntervalMs)
  }

  /**
   * What may still be granted of a backend: what its last report leaves after those that wait
   * there, less what was granted since and not seen in a report. Reports that stay away make it
   * fade to nothing.
   */
  credits(backendId: string, nowMs: number): number {
    const backend = this.#backends.get(backendId)
    if (backend === undefined) return 0
    const { report, receivedAtMs, grants, lent } = backend
    this.#forgetShown(backend, nowMs)
    if (report.draining || receivedAtMs < this.#quietUntilMs) return 0
    const missed = Math.floor((nowMs - receivedAtMs) / this.#policy.reportIntervalMs)
    const fading = SILENT_FROM_MISSED - DECAY_FROM_MISSED
    const share = Math.min(1, Math.max(0, (SILENT_FROM_MISSED - missed) / fading))
    const left = Math.max(0, report.freeCacheTokens - report.waitingTokens)
    return Math.max(0, Math.floor(left * share) - sumTokens(grants) - sumTokens(lent))
  }

  #grant(waiter: Waiter, nowMs: number): Grant | null {
    const ranked = this.#ranked(nowMs)
    const best = ranked[0]
    if (best !== undefined && best.credits >= waiter.tokens) {
      return this.#put(best.backend, waiter, nowMs)
    }
    const silent = ranked.find(({ backend }) => this.#mayProbe(backend, nowMs))
    if (silent === undefined) return null
    silent.backend.lastProbeAtMs = nowMs
    return this.#put(silent.backend, waiter, nowMs, true)
  }

  /** Backends by what may still be granted of them, most first. */
  #ranked(nowMs: number): { id: string; backend: BackendState; credits: number }[] {
    return [...this.#backends.entries()]
      .map(([id, backend]) => ({ id, backend, credits: this.credits(id, nowMs) }))
      .toSorted((a, b) => b.credits - a.credits || (a.id < b.id ? -1 : 1))
  }

  #grantOf(requestId: string, nowMs: number): Grant | null {
    for (const { grants } of this.#backends.values()) {
      const grant = grants.get(requestId)?.grant
      if (grant !== undefined && nowMs < grant.dispatchByMs) return grant
    }
    return null
  }

  #lentAs(leaseId: string): TurnLease | null {
    const { leaseTtlMs } = this.#policy
    for (const { lent } of this.#backends.values()) {
      const known = lent.get(leaseId)
      if (known !== undefined) return { leaseId, tokens: known.tokens, ttlMs: leaseTtlMs }
    }
    return null
  }

  #put(
    { report: { backendId }, grants }: BackendState,
    { id, tokens }: Pick<Waiter, 'id' | 'tokens'>,
    nowMs: number,
    probe = false,
  ): Grant {
    const { dispatchWithinMs, grantTtlMs } = this.#policy
    const dispatchByMs = nowMs + dispatchWithinMs
    const grant = { requestId: id, backendId, tokens, probe, dispatchByMs }
    grants.set(id, { grant, tokens, untilMs: nowMs + grantTtlMs })
    return grant
  }

  #mayProbe({ report, receivedAtMs, lastProbeAtMs }: BackendState, nowMs: number): boolean {
    const silentMs = SILENT_FROM_MISSED * this.#policy.reportIntervalMs
    return (
      !report.draining &&
      nowMs >= this.#quietUntilMs &&
      nowMs - receivedAtMs >= silentMs &&
      nowMs - lastProbeAtMs >= this.#policy.probeEveryMs
    )
  }

  /** Drops what the last report shows if it is anywhere; a silent backend has no credits anyway. */
  #forgetShown({ grants, lent, receivedAtMs }: BackendState, nowMs: number): void {
    const silentSinceMs = nowMs - SILENT_FROM_MISSED * this.#policy.reportIntervalMs
    const shownMs = Math.max(receivedAtMs, silentSinceMs)
    for (const held of [grants, lent]) {
      for (const [id, { untilMs }] of held) if (untilMs <= shownMs) held.delete(id)
    }
  }

  #largestBackend(): number {
    const sizes = [...this.#backends.values()].map(({ report }) => report.cacheTokensMax)
    return Math.max(0, ...sizes)
  }
}

function sumTokens(held: ReadonlyMap<string, { readonly tokens: number }>): number {
  let sum = 0
  for (const { tokens } of held.values()) sum += tokens
  return sum
}
