import type { LoggedEvent, SimEvent } from './events.ts'

type EventOf<Kind extends SimEvent['kind']> = Extract<SimEvent, { readonly kind: Kind }>

type Handlers = { readonly [Kind in SimEvent['kind']]?: (event: EventOf<Kind>) => unknown }

export interface TurnAuditOptions {
  readonly reportIntervalMs: number
  readonly dispatchWithinMs: number
  readonly grantTtlMs: number
  /** For how long room may lie idle while somebody waits: what was given out and lost comes back. */
  readonly idleMsMax: number
  readonly fail: (invariant: string, what: string, atMs: number) => void
}

/** Room that the pool has to keep off its books' free side, and until when. */
interface Hold {
  readonly what: 'request' | 'lease'
  readonly id: string
  readonly backendId: string
  readonly tokens: number
  readonly untilMs: number
}

interface Report extends EventOf<'reported'> {
  readonly receivedAtMs: number
}

/** Of one lease, what its isolate did. */
interface LeaseLife {
  readonly backendId: string | null
  readonly tokens: number
  readonly endMs: number
  /** Started with it and not over. */
  readonly running: Map<string, number>
  readonly started: Set<string>
  lastStartMs: number
  told: boolean
}

/** Of one request, what truly becomes of it. */
interface Work {
  readonly backendId: string
  readonly tokens: number
  readonly dispatchByMs: number
  readonly dispatched: boolean
  readonly arrivedAtMs: number
}

/**
 * Keeps a pool's books a second time, and the truth beside them. The books are one list of holds,
 * made anew from what the pool's object heard, said and granted, and have to come to what it says is
 * left. The truth is what isolates may still start and what backends have taken in: it has to fit
 * into each backend's last report, whatever the books say.
 */
export class TurnAuditor {
  readonly counts: Record<string, number> = {}
  readonly #options: TurnAuditOptions
  readonly #reports = new Map<string, Report>()
  readonly #waiting = new Map<string, EventOf<'waits'>['waiter']>()
  readonly #leases = new Map<string, LeaseLife>()
  readonly #leaseOf = new Map<string, LeaseLife>()
  /** Those that may still be spent, or were a moment ago. */
  #live: LeaseLife[] = []
  readonly #work = new Map<string, Work>()
  readonly #overAtMs = new Map<string, number>()
  readonly #idleSinceMs = new Map<string, number>()
  readonly #handlers: Handlers = {
    pool_restarted: (event) => this.#restart(event),
    reported: (event) => this.#report(event),
    out_of_reach: ({ backendId }) => this.#outOfReach(backendId),
    granted: (event) => this.#grant(event),
    grant_ended: ({ requestId }) => this.#unname(requestId),
    waits: ({ waiter }) => this.#waiting.set(waiter.id, waiter),
    waits_no_more: ({ requestId }) => this.#waiting.delete(requestId),
    turns_lent: (event) => this.#lend(event),
    lease_closed: (event) => this.#close(event),
    pool_says: (event) => this.#compare(event),
    turn_started: (event) => this.#start(event),
    turn_over: ({ requestId }) => this.#end(requestId),
    lease_told: (event) => this.#told(event),
    dispatched: ({ requestId }) => this.#changeWork(requestId, { dispatched: true }),
    arrived: ({ requestId }) => this.#changeWork(requestId, { arrivedAtMs: this.#nowMs }),
    freed: ({ requestId }) => this.#work.delete(requestId),
    unused: (event) => this.#checkIdling(event),
  }
  #holds: Hold[] = []
  #quietUntilMs = 0
  #nowMs = 0

  constructor(options: TurnAuditOptions) {
    this.#options = options
  }

  check(events: readonly LoggedEvent[]): void {
    for (const { event, atMs } of events) {
      this.#nowMs = atMs
      const see = this.#handlers[event.kind] as ((seen: SimEvent) => void) | undefined
      see?.(event)
    }
  }

  #restart({ quietUntilMs }: EventOf<'pool_restarted'>): void {
    this.#count('pool_crashes')
    for (const { what } of this.#holds) if (what === 'lease') this.#count('leases_forgotten')
    this.#reports.clear()
    this.#waiting.clear()
    this.#idleSinceMs.clear()
    this.#holds = []
    this.#quietUntilMs = quietUntilMs
  }

  #report(event: EventOf<'reported'>): void {
    const { backendId, progress } = event
    this.#reports.set(backendId, { ...event, receivedAtMs: this.#nowMs })
    const shown = new Set(progress)
    this.#holds = this.#holds.filter(
      (hold) => hold.what === 'lease' || hold.backendId !== backendId || !shown.has(hold.id),
    )
  }

  #outOfReach(backendId: string): void {
    const report = this.#reports.get(backendId)
    if (report !== undefined) this.#reports.set(backendId, { ...report, draining: true })
  }

  #grant({ requestId, backendId, tokens, dispatchByMs, probe }: EventOf<'granted'>): void {
    this.#prune()
    this.#idleSinceMs.clear()
    const { dispatchWithinMs, grantTtlMs } = this.#options
    const untilMs = dispatchByMs - dispatchWithinMs + grantTtlMs
    const name = { ...NAMED, id: requestId, backendId, tokens, untilMs }
    // Asked again, the pool gives the same grant again.
    if (this.#holds.some((hold) => hold.id === requestId && isSame(hold, name))) return
    this.#name([name])
    const work = this.#work.get(requestId)
    if (work !== undefined && work.backendId !== backendId && this.#mayArrive(work)) {
      this.#fail('I10', `${requestId} was granted at two backends at once`)
    }
    // Of a request that is over nobody dispatches what comes late.
    if (work === undefined && !this.#overAtMs.has(requestId)) {
      this.#work.set(requestId, workAt(backendId, tokens, dispatchByMs))
    }
    if (!probe) this.#checkRoom(backendId, requestId)
  }

  #lend({ leaseId, backendId, tokens, ttlMs }: EventOf<'turns_lent'>): void {
    this.#prune()
    const held = this.#holds.find(({ what, id }) => what === 'lease' && id === leaseId)
    if (held !== undefined) {
      if (held.tokens !== tokens) this.#fail('I2', `${leaseId} was lent with two sizes`)
      return
    }
    this.#count('leases_lent')
    if (backendId === null) return this.#fail('I10', `${leaseId} was taken from no backend`)
    const waiter = [...this.#waiting.values()].find(({ deadlineMs }) => deadlineMs > this.#nowMs)
    if (waiter !== undefined) this.#fail('I7', `${leaseId} was lent while ${waiter.id} waits`)
    const life = {
      backendId,
      tokens,
      endMs: this.#nowMs + ttlMs,
      running: new Map(),
      started: new Set<string>(),
      lastStartMs: -Infinity,
      told: false,
    }
    // A message that comes late may be given a lease again that is over: nobody will spend it.
    if (!this.#leases.has(leaseId)) {
      this.#leases.set(leaseId, life)
      this.#live.push(life)
    }
    const untilMs = life.endMs + this.#options.grantTtlMs
    this.#holds.push({ what: 'lease', id: leaseId, backendId, tokens, untilMs })
    this.#checkRoom(backendId, leaseId)
  }

  #close({ leaseId, running }: EventOf<'lease_closed'>): void {
    this.#prune()
    const hold = this.#holds.find(({ what, id }) => what === 'lease' && id === leaseId)
    if (hold === undefined) return
    this.#count('leases_closed')
    const { backendId } = hold
    const untilMs = this.#nowMs + this.#options.grantTtlMs
    const names = running.map(({ id, tokens }) => ({ ...NAMED, id, backendId, tokens, untilMs }))
    this.#holds = this.#holds.filter((one) => one !== hold)
    this.#name(names)
  }

  #unname(requestId: string): void {
    this.#holds = this.#holds.filter(({ what, id }) => what === 'lease' || id !== requestId)
  }

  /** Whoever is named again at the same backend is held once, and longer. */
  #name(names: readonly Hold[]): void {
    const isNamedAnew = ({ what, id, backendId }: Hold): boolean =>
      names.some((name) => name.what === what && name.id === id && name.backendId === backendId)
    this.#holds = [...this.#holds.filter((hold) => !isNamedAnew(hold)), ...names]
  }

  /** The pool's own account against ours: neither more free than there is, nor less. */
  #compare({ credits, served }: EventOf<'pool_says'>): void {
    this.#prune()
    let most = 0
    for (const { backendId, tokens } of credits) {
      const report = this.#reports.get(backendId)
      const counts = report !== undefined && !report.draining
      const free = counts && report.receivedAtMs >= this.#quietUntilMs ? report.freeTokens : 0
      const held = sumOf(this.#holds.filter((hold) => hold.backendId === backendId))
      const left = Math.max(0, free - held)
      const whole = this.#isFresh(report) ? left : 0
      const says = `${backendId} has ${tokens} left by its pool and ${left} by what it was told`
      if (tokens > left) this.#fail('I10', says)
      if (tokens < whole) this.#fail('I9', says)
      most = Math.max(most, tokens)
    }
    const needs = this.#needs()
    if (served && needs !== null && needs <= most && this.#nowMs >= this.#quietUntilMs) {
      this.#fail('I9', `whoever waits needs ${needs} and ${most} are left`)
    }
  }

  #start({ leaseId, requestId, backendId, tokens, dispatchByMs }: EventOf<'turn_started'>): void {
    this.#count('turns_by_lease')
    const lease = this.#leases.get(leaseId)
    if (lease === undefined) return this.#fail('I6', `${requestId} has a lease that nobody gave`)
    const lateMs = this.#nowMs - lease.endMs
    if (lateMs > 0) this.#fail('I6', `${requestId} began ${lateMs} ms after its lease`)
    if (lease.told) this.#fail('I6', `${requestId} began with a lease that was given back`)
    lease.running.set(requestId, tokens)
    lease.started.add(requestId)
    lease.lastStartMs = this.#nowMs
    this.#leaseOf.set(requestId, lease)
    const runs = sumOf([...lease.running.values()].map((each) => ({ tokens: each })))
    if (runs > lease.tokens) this.#fail('I2', `${leaseId} of ${lease.tokens} has ${runs} running`)
    this.#work.set(requestId, workAt(backendId, tokens, dispatchByMs))
  }

  #end(requestId: string): void {
    this.#overAtMs.set(requestId, this.#nowMs)
    this.#leaseOf.get(requestId)?.running.delete(requestId)
    if (this.#work.get(requestId)?.dispatched === false) this.#work.delete(requestId)
  }

  /** I2: everything that was started with a lease and is not over is said to run, and nothing else. */
  #told({ leaseId, running }: EventOf<'lease_told'>): void {
    const lease = this.#leases.get(leaseId)
    if (lease === undefined) return this.#fail('I2', `${leaseId} is given back and was never lent`)
    lease.told = true
    const said = new Map(running.map(({ id, tokens }) => [id, tokens]))
    if (said.size !== running.length) this.#fail('I2', `${leaseId} says twice that a turn runs`)
    for (const [id, tokens] of lease.running) {
      if (said.get(id) !== tokens) this.#fail('I2', `${leaseId} leaves out that ${id} runs`)
    }
    for (const id of said.keys()) {
      const over = (this.#overAtMs.get(id) ?? Infinity) < lease.lastStartMs
      if (over || !lease.started.has(id)) this.#fail('I2', `${leaseId} says that ${id} runs`)
    }
  }

  /**
   * I10: what may still be started and what a backend has taken in since it wrote its last report
   * fits into what that report left.
   */
  #checkRoom(backendId: string, cause: string): void {
    const report = this.#reports.get(backendId)
    const madeAtMs = report?.madeAtMs ?? 0
    const unseen = [...this.#work.values()].filter(
      (work) =>
        work.backendId === backendId &&
        (work.arrivedAtMs === Infinity ? this.#mayArrive(work) : work.arrivedAtMs > madeAtMs),
    )
    this.#live = this.#live.filter((lease) => !lease.told && this.#nowMs < lease.endMs)
    const unspent = this.#live
      .filter((lease) => lease.backendId === backendId)
      .map(({ tokens, running }) => ({
        tokens: [...running.values()].reduce((left, each) => left - each, tokens),
      }))
    const total = sumOf(unseen) + sumOf(unspent)
    const free = report?.freeTokens ?? 0
    if (total > free) this.#fail('I10', `${cause} brought ${backendId} to ${total} of ${free}`)
  }

  #changeWork(requestId: string, change: Partial<Work>): void {
    const work = this.#work.get(requestId)
    if (work !== undefined) this.#work.set(requestId, { ...work, ...change })
  }

  /** I9, by what truly lies idle: while all who wait would fit, somebody is served before long. */
  #checkIdling({ backendId, tokens }: EventOf<'unused'>): void {
    const needs = this.#needs()
    const fits = needs !== null && needs <= tokens && this.#isFresh(this.#reports.get(backendId))
    const mayGrant = this.#nowMs >= this.#quietUntilMs
    if (!fits || !mayGrant) return void this.#idleSinceMs.delete(backendId)
    const sinceMs = this.#idleSinceMs.get(backendId) ?? this.#nowMs
    this.#idleSinceMs.set(backendId, sinceMs)
    const idleMs = this.#nowMs - sinceMs
    if (idleMs <= this.#options.idleMsMax) return
    this.#fail('I9', `${backendId} has ${tokens} idle for ${idleMs} ms and ${needs} wait`)
  }

  /** What the largest of those who wait needs; null: nobody waits. */
  #needs(): number | null {
    const inTime = [...this.#waiting.values()].filter(({ deadlineMs }) => deadlineMs > this.#nowMs)
    return inTime.length === 0 ? null : Math.max(...inTime.map(({ tokens }) => tokens))
  }

  /** Whether the pool may count on all that a report says. */
  #isFresh(report: Report | undefined): boolean {
    if (report === undefined || report.draining) return false
    if (report.receivedAtMs < this.#quietUntilMs) return false
    return this.#nowMs - report.receivedAtMs < 2 * this.#options.reportIntervalMs
  }

  #mayArrive({ arrivedAtMs, dispatchByMs }: Work): boolean {
    return arrivedAtMs === Infinity && this.#nowMs < dispatchByMs
  }

  /** A hold lapses with the first report after its time; without reports nothing is left anyway. */
  #prune(): void {
    const silentMs = 5 * this.#options.reportIntervalMs
    const isOver = ({ backendId, untilMs }: Hold): boolean =>
      untilMs <= (this.#reports.get(backendId)?.receivedAtMs ?? -Infinity) ||
      untilMs <= this.#nowMs - silentMs
    const lapsed = this.#holds.filter(isOver)
    if (lapsed.length === 0) return
    for (const { what } of lapsed) if (what === 'lease') this.#count('leases_lapsed')
    this.#holds = this.#holds.filter((hold) => !isOver(hold))
  }

  #fail(invariant: string, what: string): void {
    this.#options.fail(invariant, what, this.#nowMs)
  }

  #count(what: string): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1
  }
}

const NAMED = { what: 'request' } as const

function isSame(a: Hold, b: Hold): boolean {
  return a.what === b.what && a.backendId === b.backendId && a.untilMs === b.untilMs
}

function workAt(backendId: string, tokens: number, dispatchByMs: number): Work {
  return { backendId, tokens, dispatchByMs, dispatched: false, arrivedAtMs: Infinity }
}

function sumOf(items: readonly { readonly tokens: number }[]): number {
  return items.reduce((sum, { tokens }) => sum + tokens, 0)
}
