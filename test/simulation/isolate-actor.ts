import type { Cost } from '../../edge/src/admission/cost.ts'
import type { AdmissionPolicy } from '../../edge/src/admission/policy.ts'
import type { Grant, PoolPolicy } from '../../edge/src/admission/pool-admission.ts'
import { ScopeLeases } from '../../edge/src/admission/scope-leases.ts'
import type {
  Admission,
  AdmitRequest,
  LeaseReport,
  Refusal,
} from '../../edge/src/admission/tenant-admission.ts'
import type { BackendActor, StreamEnd } from './backend-actor.ts'
import type { SimEvent } from './events.ts'
import { IsolateTurns } from './isolate-turns.ts'
import type { Turn } from './isolate-turns.ts'
import type { PoolActor } from './pool-actor.ts'
import type { TenantActor } from './tenant-actor.ts'
import type { Arrival } from './workload.ts'
import type { Host, World } from './world.ts'

export interface IsolateDeps {
  readonly world: World
  readonly policy: AdmissionPolicy
  readonly poolPolicy: PoolPolicy
  readonly pool: PoolActor
  readonly backends: ReadonlyMap<string, BackendActor>
  readonly tenants: ReadonlyMap<string, TenantActor>
  readonly log: (event: SimEvent) => void
  readonly onEnd: (arrival: Arrival, outcome: string) => void
  /** Whether leases are asked for at all. */
  readonly leases: boolean
}

/** Longer than any answer takes to arrive that still arrives. */
const RPC_TIMEOUT_MS = 2000

/** One request on its way through an isolate. */
interface Flight {
  readonly arrival: Arrival
  readonly requestId: string
  readonly scopeKey: string
  estimate: Cost
  grantedOutputTokens: number
  /** When the key was last known to be good, by this isolate's clock. */
  verifiedAtMs: number
  state: 'admitting' | 'waiting' | 'streaming' | 'over'
  backendId: string | null
  /** Its client has gone; the backend is being told. */
  left: boolean
}

/** A Worker isolate: memory, a clock that is a little off, and no promise to live. */
export class IsolateActor {
  readonly host: Host = { awakeFromMs: 0 }
  readonly isolateId: string
  readonly #deps: IsolateDeps
  readonly #skewMs: number
  readonly #scopes = new Map<string, ScopeLeases>()
  /** Key id → the epoch it was verified under. */
  readonly #verified = new Map<string, number>()
  readonly #flights = new Map<string, Flight>()
  /** Requests that were admitted and will never be dispatched, with how often that was said. */
  readonly #releases = new Map<string, { tenantId: string; told: number }>()
  readonly #turns: IsolateTurns
  #serial = 0

  constructor(deps: IsolateDeps, isolateId: string) {
    this.#deps = deps
    this.isolateId = isolateId
    this.#skewMs = deps.world.random.between(-5000, 5000)
    this.#turns = new IsolateTurns({
      world: deps.world,
      host: this.host,
      pool: deps.pool,
      policy: deps.poolPolicy,
      log: deps.log,
      newLeaseId: () => this.#newLeaseId(),
      now: () => this.#now(),
    })
  }

  serve(arrival: Arrival): void {
    const { world } = this.#deps
    const requestId = `${this.isolateId}-r${this.#serial++}`
    const flight: Flight = {
      arrival,
      requestId,
      scopeKey: `${arrival.tenantId}/${arrival.keyId}`,
      estimate: { requests: 0, inputTokens: 0, uncachedInputTokens: 0, outputTokens: 0 },
      grantedOutputTokens: 0,
      verifiedAtMs: this.#now(),
      state: 'admitting',
      backendId: null,
      left: false,
    }
    this.#flights.set(requestId, flight)
    if (arrival.patienceMs !== null) {
      world.on(this.host, arrival.patienceMs, () => this.#clientLeaves(flight))
    }
    if (!this.#spend(flight)) this.#askObject(flight)
  }

  /** Reports, heartbeats, refills: once in a while, and never on a request's path. */
  tick(): void {
    for (const [scopeKey, leases] of this.#scopes) {
      const tenant = this.#tenantOf(scopeKey)
      for (const report of leases.reports(this.#now())) this.#sendReport(tenant, leases, report)
      if (this.#deps.leases && leases.wantsRefill(this.#now())) this.#refill(scopeKey, leases)
    }
    this.#heartbeat()
    for (const [requestId, release] of this.#releases) {
      if (++release.told > 4) this.#releases.delete(requestId)
      const { tenantId } = release
      this.#toTenant(this.#tenant(tenantId), (tenant) => {
        if (tenant.release(requestId) !== 'released') return
        this.#deps.log({ kind: 'released', tenantId, requestId })
      })
    }
  }

  /** Its pool is told several times a second. */
  tickTurns(): void {
    this.#turns.tick()
  }

  freeze(forMs: number): void {
    this.host.awakeFromMs = Math.max(this.host.awakeFromMs, this.#deps.world.nowMs + forMs)
  }

  /** Its streams break; the backends notice a while later. */
  die(): void {
    this.host.awakeFromMs = Infinity
    for (const flight of this.#flights.values()) {
      const backend = this.#backend(flight.backendId)
      if (backend !== null) {
        this.#deps.world.on(backend.host, 2000, () => backend.cancel(flight.requestId))
      }
      if (flight.state !== 'over') this.#deps.onEnd(flight.arrival, 'isolate_died')
    }
  }

  #spend(flight: Flight): boolean {
    const { arrival, requestId } = flight
    const leases = this.#scope(flight.scopeKey)
    const epoch = leases.keyEpoch(this.#now())
    if (epoch === null || this.#verified.get(arrival.keyId) !== epoch) return false
    const spend = leases.spend(requestOf(arrival, requestId), this.#now())
    if (spend === null) return false
    this.#deps.log({
      kind: 'admitted',
      tenantId: arrival.tenantId,
      requestId,
      scope: scopeOf(arrival),
      cost: spend.estimate,
      leaseId: spend.lease.leaseId,
    })
    this.#admitted(flight, spend.estimate, spend.grantedOutputTokens, spend.verifiedAtMs)
    return true
  }

  #askObject(flight: Flight): void {
    const { arrival, requestId } = flight
    const leases = this.#scope(flight.scopeKey)
    const askedAtMs = this.#now()
    const ask = this.#deps.leases ? leases.ask(this.#newLeaseId(), askedAtMs) : null
    const { maxWaitMs } = arrival
    const request = { ...requestOf(arrival, requestId), scope: scopeOf(arrival), maxWaitMs }
    const { world } = this.#deps
    let over = false
    const once = (run: () => void): void => {
      if (!over) run()
      over = true
    }
    this.#toTenant(this.#tenant(arrival.tenantId), (tenant) =>
      tenant.admit(request, ask, (reply) =>
        world.send(this.host, () =>
          once(() => {
            if (reply.status === 'broken') this.#giveUp(flight, 'tenant_down')
            else this.#answered(flight, reply, askedAtMs)
          }),
        ),
      ),
    )
    world.on(this.host, maxWaitMs + RPC_TIMEOUT_MS, () =>
      once(() => this.#giveUp(flight, 'tenant_down')),
    )
  }

  #answered(flight: Flight, answer: Admission | Refusal, askedAtMs: number): void {
    if (answer.status === 'refused') {
      return this.#over(flight, answer.reason === 'key' ? 'revoked' : answer.reason)
    }
    const { reservation, lease, keyEpoch } = answer
    const leases = this.#scope(flight.scopeKey)
    this.#verified.set(flight.arrival.keyId, keyEpoch)
    if (lease !== null) leases.receive(lease, askedAtMs)
    leases.count(reservation.estimate, reservation.holdPico, this.#now())
    if (flight.state === 'over') return this.#release(flight)
    this.#admitted(flight, reservation.estimate, reservation.grantedOutputTokens, askedAtMs)
  }

  #admitted(flight: Flight, estimate: Cost, granted: number, verifiedAtMs: number): void {
    flight.estimate = estimate
    flight.grantedOutputTokens = granted
    flight.verifiedAtMs = verifiedAtMs
    flight.state = 'waiting'
    this.#waitForTurn(flight)
  }

  #waitForTurn(flight: Flight): void {
    const { requestId: id, arrival, estimate } = flight
    const tokens = estimate.inputTokens + estimate.outputTokens
    this.#turns.take({ id, tenantId: arrival.tenantId, tokens }, (turn) => this.#turn(flight, turn))
  }

  #turn(flight: Flight, turn: Turn): void {
    if (turn.status === 'refused') return this.#giveUp(flight, turn.reason)
    if (flight.state === 'over') return this.#turns.giveBack(flight.requestId)
    const ageMs = this.#now() - flight.verifiedAtMs
    if (ageMs <= this.#deps.policy.leaseTtlMs) return this.#dispatch(flight, turn.grant)
    const askedAtMs = this.#now()
    this.#callTenant(
      flight.arrival.tenantId,
      (tenant) => ({ value: !tenant.revokedKeys.has(flight.arrival.keyId) }),
      (valid) => {
        flight.verifiedAtMs = askedAtMs
        if (valid) return this.#turn(flight, turn)
        this.#turns.giveBack(flight.requestId)
        return this.#giveUp(flight, 'revoked')
      },
      () => {
        this.#turns.giveBack(flight.requestId)
        this.#giveUp(flight, 'tenant_down')
      },
    )
  }

  #dispatch(flight: Flight, grant: Grant): void {
    const { world, log } = this.#deps
    const { arrival, requestId } = flight
    const { tenantId, keyId } = arrival
    const backend = this.#backend(grant.backendId)
    if (backend === null) throw new Error('a grant is for a backend that there is')
    log({ kind: 'dispatched', tenantId, requestId, keyId })
    flight.state = 'streaming'
    flight.backendId = grant.backendId
    const dispatch = {
      requestId,
      tenantId,
      ...scopeOf(arrival),
      promptTokens: arrival.promptTokens,
      cachedTokens: arrival.cachedTokens,
      naturalTokens: arrival.naturalTokens,
      grantedOutputTokens: flight.grantedOutputTokens,
      breaks: arrival.breaks,
      dispatchByMs: grant.dispatchByMs,
    }
    const onEnd = (end: StreamEnd): void =>
      world.on(this.host, world.random.between(1, 20), () => this.#streamEnds(flight, end))
    world.send(backend.host, () => backend.dispatch(dispatch, onEnd))
  }

  #streamEnds(flight: Flight, { outcome }: StreamEnd): void {
    if (!flight.left) this.#turns.end(flight.requestId)
    this.#over(flight, outcome)
  }

  #clientLeaves(flight: Flight): void {
    const { world } = this.#deps
    if (flight.state === 'over') return
    const backend = this.#backend(flight.backendId)
    if (backend !== null) {
      world.send(backend.host, () => backend.cancel(flight.requestId))
      // Its turn is not over before the backend has heard, and nobody knows when that is: it lapses.
      flight.left = true
      return
    }
    if (flight.state === 'waiting') this.#turns.giveBack(flight.requestId)
    this.#giveUp(flight, 'client_left')
  }

  /** Ends a request that was not dispatched. What it reserved goes back, if anything was. */
  #giveUp(flight: Flight, outcome: string): void {
    if (flight.state === 'over') return
    this.#over(flight, outcome)
    this.#release(flight)
  }

  #release({ requestId, arrival: { tenantId } }: Flight): void {
    this.#releases.set(requestId, { tenantId, told: 0 })
  }

  #over(flight: Flight, outcome: string): void {
    if (flight.state === 'over') return
    flight.state = 'over'
    this.#flights.delete(flight.requestId)
    this.#deps.onEnd(flight.arrival, outcome)
  }

  #sendReport(tenant: TenantActor, leases: ScopeLeases, report: LeaseReport): void {
    const { world } = this.#deps
    this.#toTenant(tenant, (object, nowMs) => {
      const result = object.call((core) => core.report(report, nowMs))
      if (!result.ran || !result.answered) return
      const counted = result.value
      world.send(this.host, () => leases.acknowledge(report.lease.leaseId, counted))
    })
  }

  #refill(scopeKey: string, leases: ScopeLeases): void {
    const askedAtMs = this.#now()
    const ask = leases.ask(this.#newLeaseId(), askedAtMs)
    if (ask.demand.cost.requests === 0) return
    const tenant = this.#tenantOf(scopeKey)
    const [, keyId = ''] = scopeKey.split('/')
    const scope = { projectId: PROJECT, keyId, model: MODEL }
    this.#toTenant(tenant, (object, nowMs) => {
      if (object.revokedKeys.has(keyId)) return
      const result = object.call((core, queue) =>
        queue.mayLend(core, scope) ? core.refill(scope, ask, nowMs) : null,
      )
      if (!result.ran || result.value === null) return
      const lease = result.value
      const { leaseId, cost } = lease
      this.#deps.log({ kind: 'lent', tenantId: object.tenantId, leaseId, scope, cost })
      if (!result.answered) return
      this.#deps.world.send(this.host, () => {
        if (leases.wantsRefill(this.#now())) leases.receive(lease, askedAtMs)
        this.#verified.set(keyId, lease.keyEpoch)
      })
    })
  }

  #heartbeat(): void {
    const running = new Map<string, string[]>()
    for (const { state, requestId, arrival } of this.#flights.values()) {
      if (state !== 'streaming') continue
      running.set(arrival.tenantId, [...(running.get(arrival.tenantId) ?? []), requestId])
    }
    for (const [tenantId, ids] of running) {
      this.#toTenant(this.#tenant(tenantId), (tenant, nowMs) =>
        tenant.call((core) => core.heartbeat(ids, nowMs)),
      )
    }
  }

  #toTenant(tenant: TenantActor, run: (tenant: TenantActor, nowMs: number) => unknown): void {
    const { world } = this.#deps
    world.send(tenant.host, () => void run(tenant, world.nowMs))
  }

  /** A call that is answered once, or not in time. */
  #callTenant<Value>(
    tenantId: string,
    run: (tenant: TenantActor, nowMs: number) => Answered<Value>,
    onAnswer: (value: Value) => void,
    onSilence: () => void,
  ): void {
    const { world } = this.#deps
    let over = false
    this.#toTenant(this.#tenant(tenantId), (tenant, nowMs) => {
      const answer = run(tenant, nowMs)
      if (answer === null) return
      world.send(this.host, () => {
        if (over) return
        over = true
        onAnswer(answer.value)
      })
    })
    world.on(this.host, RPC_TIMEOUT_MS, () => {
      if (over) return
      over = true
      onSilence()
    })
  }

  #scope(scopeKey: string): ScopeLeases {
    const known = this.#scopes.get(scopeKey)
    if (known !== undefined) return known
    const leases = new ScopeLeases(this.isolateId, this.#deps.policy)
    this.#scopes.set(scopeKey, leases)
    return leases
  }

  #tenantOf(scopeKey: string): TenantActor {
    return this.#tenant(scopeKey.split('/')[0] ?? '')
  }

  #tenant(tenantId: string): TenantActor {
    const tenant = this.#deps.tenants.get(tenantId)
    if (tenant === undefined) throw new Error(`no tenant ${tenantId}`)
    return tenant
  }

  #backend(backendId: string | null): BackendActor | null {
    return backendId === null ? null : (this.#deps.backends.get(backendId) ?? null)
  }

  #newLeaseId(): string {
    return `${this.isolateId}-l${this.#serial++}`
  }

  #now(): number {
    return this.#deps.world.nowMs + this.#skewMs
  }
}

/** null: no answer came. */
type Answered<Value> = { readonly value: Value } | null

const PROJECT = 'project'
const MODEL = 'deepseek-v4-flash'

export function scopeOf({ keyId }: Arrival): {
  projectId: string
  keyId: string
  model: string
} {
  return { projectId: PROJECT, keyId, model: MODEL }
}

function requestOf(arrival: Arrival, requestId: string): Omit<AdmitRequest, 'scope'> {
  const { bodyBytes, outputTokensMax, maxCostPico } = arrival
  return { requestId, bodyBytes, outputTokensMax, maxCostPico }
}
