import { LIST_PRICES } from '../../edge/src/admission/prices.ts'
import { RATE_MEASURES } from '../../edge/src/admission/cost.ts'
import type { Limit } from '../../edge/src/admission/limits.ts'
import { DEFAULT_POLICY } from '../../edge/src/admission/policy.ts'
import { DEFAULT_POOL_POLICY } from '../../edge/src/admission/pool-admission.ts'
import type { LimitState } from '../../edge/src/admission/tenant-capacity.ts'
import type { SettledRecord } from '../../edge/src/admission/prices.ts'
import type { Admission, TenantTerms } from '../../edge/src/admission/tenant-admission.ts'
import { Auditor } from './auditor.ts'
import type { Violation } from './auditor.ts'
import { BackendActor } from './backend-actor.ts'
import type { LoggedEvent, SimEvent } from './events.ts'
import { IsolateActor } from './isolate-actor.ts'
import type { IsolateDeps } from './isolate-actor.ts'
import { TELL_EVERY_MS } from './isolate-turns.ts'
import { PoolActor } from './pool-actor.ts'
import { adviceHolds, adviceHoldsBehind } from './advice.ts'
import { asText, TenantActor } from './tenant-actor.ts'
import type { Decided } from './tenant-actor.ts'
import { Random } from './random.ts'
import { bursts, CHAT_SIZES, ESSAY_SIZES, poisson, wholeContext } from './workload.ts'
import type { Arrival, Source } from './workload.ts'
import { World } from './world.ts'

export interface SimulationResult {
  readonly seed: number
  readonly violations: readonly Violation[]
  readonly counts: Readonly<Record<string, number>>
  /** Everything the tenants decided and posted, for comparing two runs. */
  readonly fingerprint: string
}

const LOAD_MS = 45_000
/** After the load: requests end, records get through, and what was asked about is answered. */
const SETTLE_MS = 300_000
/** Then until the money of leases that died is free again. */
const REST_MS = DEFAULT_POLICY.leaseMoneyMs + 60_000
const TICK_MS = DEFAULT_POOL_POLICY.reportIntervalMs

/** One world from one seed: who calls, what breaks, and what the auditor says to it. */
export function simulate(seed: number): SimulationResult {
  return new Simulation(seed).run()
}

class Simulation {
  readonly #seed: number
  readonly #world: World
  readonly #strict: boolean
  readonly #events: LoggedEvent[] = []
  readonly #counts: Record<string, number> = {}
  readonly #auditor: Auditor
  readonly #tenants: readonly TenantActor[]
  readonly #pool: PoolActor
  readonly #backends: readonly BackendActor[]
  #isolates: IsolateActor[]
  #isolatesMade = 0

  constructor(seed: number) {
    this.#seed = seed
    const calm = seed % 10 === 0
    this.#world = new World(
      seed,
      calm
        ? { loss: 0, duplication: 0, delayMsMax: 20, crash: 0 }
        : {
            loss: 0.02,
            duplication: 0.05,
            delayMsMax: new Random(seed).pick([50, 250, 900]),
            // Nobody waits long at an object that dies with every fiftieth call.
            crash: new Random(seed + 1).pick([0.02, 0.002]),
          },
    )
    const { random } = this.#world
    // One world in five lends nothing, so that the cap can be held to the last request.
    this.#strict = seed % 5 === 0
    this.#auditor = new Auditor(this.#events, () => this.#world.nowMs)
    this.#tenants = TENANT_IDS.map((tenantId) => this.#makeTenant(tenantId))
    this.#pool = new PoolActor(this.#world, DEFAULT_POOL_POLICY, (event) => this.#log(event))
    const cacheTokensMax = random.pick([20_000, 200_000, 2_000_000, 8_000_000])
    const log = (event: SimEvent): void => this.#log(event)
    this.#backends = ['b1', 'b2'].map(
      (id) => new BackendActor(this.#world, id, cacheTokensMax, log),
    )
    // Where all of the traffic comes to one isolate it is lent turns for much of it.
    const isolates = random.pick([1, 3])
    this.#isolates = Array.from({ length: isolates }, () => this.#makeIsolate())
  }

  run(): SimulationResult {
    const { random, nowMs: fromMs } = this.#world
    for (const arrival of this.#workload(fromMs)) {
      this.#world.after(arrival.atMs - fromMs, () => random.pick(this.#isolates).serve(arrival))
    }
    this.#topUps()
    this.#scheduleTrouble()
    this.#every(TICK_MS, LOAD_MS + SETTLE_MS, () => this.#tick())
    this.#every(TICK_MS / 5, LOAD_MS + 60_000, () => this.#tickPool())
    this.#every(TELL_EVERY_MS, LOAD_MS + 60_000, () => this.#tickTurns())
    this.#every(5000, LOAD_MS + SETTLE_MS + REST_MS, () => this.#sweep())
    this.#world.runUntil(fromMs + LOAD_MS + SETTLE_MS + REST_MS)
    this.#deliverAgain()
    const { leaseTtlMs, dispatchWithinMs, grantTtlMs } = DEFAULT_POOL_POLICY
    this.#auditor.finish(this.#tenants, {
      leaseLifeMs: DEFAULT_POLICY.leaseTtlMs + DEFAULT_POLICY.leaseReportGraceMs,
      revocationMs: 2000,
      tickMs: TICK_MS,
      strict: this.#strict,
      turns: {
        reportIntervalMs: TICK_MS,
        dispatchWithinMs,
        grantTtlMs,
        // A lease that is lost, what was started with it, the report after that, and their ways.
        idleMsMax: leaseTtlMs + grantTtlMs + 2 * (TICK_MS + this.#world.faults.delayMsMax),
      },
    })
    return this.#result()
  }

  #workload(fromMs: number): Arrival[] {
    const { random } = this.#world
    const span = { fromMs: fromMs + 1000, endMs: fromMs + LOAD_MS }
    const [prepaid = '', postpaid = ''] = TENANT_IDS
    const sizes = { ...CHAT_SIZES, outputMedian: random.pick([5, 300]) }
    const quiet: Source = {
      tenantId: prepaid,
      keyIds: ['k1', 'k2'],
      sizes: random.chance(0.3) ? ESSAY_SIZES : sizes,
      impatient: false,
    }
    const impatient = random.chance(0.2)
    const noisy: Source = { tenantId: postpaid, keyIds: ['k1', 'k2'], sizes, impatient }
    const busy = random.pick([20, 120, 1000])
    return [
      ...poisson(random, quiet, { ...span, perMinute: random.pick([20, 600]) }),
      ...(random.chance(0.5)
        ? poisson(random, noisy, { ...span, perMinute: busy })
        : bursts(random, noisy, { ...span, perMinute: busy, size: 50 })),
      ...(random.chance(0.3)
        ? [0, 60, 120, 5000].map((ms) => wholeContext(random, noisy, fromMs + 10_000 + ms))
        : []),
    ]
  }

  #makeTenant(tenantId: string): TenantActor {
    const { random } = this.#world
    const terms: TenantTerms = {
      limits: drawLimits(random),
      billing:
        tenantId === 'prepaid'
          ? { kind: 'prepaid' }
          : {
              kind: 'postpaid',
              creditPico: BigInt(random.pick([50, 5000, 1_000_000, 1_000_000])) * 1_000_000_000n,
            },
      prices: { list: LIST_PRICES, contract: [] },
    }
    return new TenantActor(this.#world, {
      tenantId,
      terms,
      policy: DEFAULT_POLICY,
      onCommit: (actor) => this.#auditor.onCommit(actor),
      onQueued: (_actor, { requestId, scope: { keyId } }) => {
        this.#count('queued')
        this.#log({ kind: 'queued', tenantId, requestId, keyId })
      },
      onLeft: (_actor, requestId) => this.#log({ kind: 'unqueued', tenantId, requestId }),
      onServed: (actor) => this.#checkIdling(actor),
      onDecided: (actor, decided) => this.#decided(actor, decided),
    })
  }

  #decided(actor: TenantActor, { request, answer, end }: Decided): void {
    const { tenantId } = actor
    if (end !== null) {
      const { requestId } = request
      this.#log({ kind: 'unqueued', tenantId, requestId })
      this.#log({ kind: 'turn', requestId, deadlineMs: end.deadlineMs })
      this.#count(answer.status === 'admitted' ? 'waited' : 'waited_in_vain')
    }
    if (answer.status === 'admitted') return this.#logAdmission(tenantId, answer)
    if (answer.reason !== 'rate' || !isAlone(actor, answer.limits)) return
    // I11: alone, with no answer under way, a retry at the advised time is not refused by a rate.
    if (!adviceHolds(actor, { request, answer, nowMs: this.#world.nowMs })) {
      this.#auditor.fail('I11', `${request.requestId} came back in time and was refused`)
    }
    if (actor.waiting.length === 0) return
    const holds = adviceHoldsBehind(actor, { request, answer, nowMs: this.#world.nowMs })
    this.#count(holds ? 'advice_behind_others' : 'advice_behind_others_early')
  }

  #logAdmission(tenantId: string, { reservation, lease }: Admission): void {
    const { id: requestId, scope, estimate: cost } = reservation
    this.#log({ kind: 'admitted', tenantId, requestId, scope, cost, leaseId: null })
    if (lease === null) return
    const { leaseId, cost: lent } = lease
    this.#log({ kind: 'lent', tenantId, leaseId, scope, cost: lent })
  }

  /** I9: whoever has waited longest does not wait for room that there is. */
  #checkIdling(actor: TenantActor): void {
    const [first] = actor.waiting
    if (first === undefined || actor.revokedKeys.has(first.scope.keyId)) return
    const { status } = actor.pretend((core) => core.admit(first, null, this.#world.nowMs))
    if (status === 'admitted') this.#auditor.fail('I9', `${first.requestId} waits though it fits`)
  }

  #makeIsolate(): IsolateActor {
    const deps: IsolateDeps = {
      world: this.#world,
      policy: DEFAULT_POLICY,
      poolPolicy: DEFAULT_POOL_POLICY,
      pool: this.#pool,
      backends: new Map(this.#backends.map((backend) => [backend.backendId, backend])),
      tenants: new Map(this.#tenants.map((tenant) => [tenant.tenantId, tenant])),
      log: (event) => this.#log(event),
      onEnd: (_arrival, outcome) => this.#count(outcome),
      leases: !this.#strict,
    }
    return new IsolateActor(deps, `i${this.#isolatesMade++}`)
  }

  #topUps(): void {
    const prepaid = this.#tenants.find(({ terms }) => terms.billing.kind === 'prepaid')
    if (prepaid === undefined) return
    const { random } = this.#world
    // From a few cents to a few hundred dollars, of which leases can be lent.
    const scale = random.pick([1_000_000_000n, 10_000_000_000_000n])
    for (let index = 0; index < 4; index++) {
      const amount = BigInt(random.between(1, 40)) * scale
      const pay = (): void => {
        const atMs = this.#world.nowMs
        prepaid.call((core) => core.topUp(`payment-${index}`, amount, atMs))
      }
      const dueMs = index === 0 ? 0 : random.between(0, LOAD_MS)
      // Payment systems tell twice.
      this.#world.on(prepaid.host, dueMs, pay)
      this.#world.on(prepaid.host, dueMs + random.between(0, 20_000), pay)
    }
  }

  #scheduleTrouble(): void {
    const { random, faults } = this.#world
    if (faults.crash === 0) return
    for (let index = 0; index < 4; index++) {
      this.#world.after(random.between(0, LOAD_MS), () => {
        const isolate = random.pick(this.#isolates)
        if (random.chance(0.6)) return isolate.freeze(random.between(500, 10_000))
        isolate.die()
        this.#isolates = [...this.#isolates.filter((one) => one !== isolate), this.#makeIsolate()]
      })
    }
    for (let index = 0; index < 3; index++) {
      this.#world.after(random.between(0, LOAD_MS), () => this.#pool.crash())
    }
    this.#world.after(random.between(0, LOAD_MS), () => random.pick(this.#backends).crash())
    this.#world.after(random.between(0, LOAD_MS), () =>
      random.pick(this.#backends).drain(random.between(500, 8000)),
    )
    for (const { backendId } of this.#backends) {
      // The connection its reports come over breaks; the same process dials again.
      this.#world.after(random.between(0, LOAD_MS), () => this.#pool.forget(backendId))
    }
    this.#world.after(random.between(5000, LOAD_MS), () => this.#revoke(random.pick(this.#tenants)))
  }

  #revoke(tenant: TenantActor): void {
    const result = tenant.call((core) => core.bumpKeyEpoch())
    if (!result.ran) return
    tenant.revokedKeys.add('k2')
    this.#log({ kind: 'revoked', tenantId: tenant.tenantId, keyId: 'k2' })
  }

  #tick(): void {
    for (const isolate of this.#isolates) this.#world.on(isolate.host, 0, () => isolate.tick())
    for (const backend of this.#backends) {
      const { backendId, unused: tokens } = backend
      this.#log({ kind: 'unused', backendId, tokens })
      this.#world.on(backend.host, 0, () => {
        this.#sendReport(backend)
        this.#pushRecords(backend)
      })
    }
  }

  #tickTurns(): void {
    for (const isolate of this.#isolates) this.#world.on(isolate.host, 0, () => isolate.tickTurns())
  }

  #tickPool(): void {
    this.#world.on(this.#pool.host, 0, () => this.#pool.tick())
  }

  #sendReport(backend: BackendActor): void {
    if (this.#world.nowMs > FIRST_REPORTS_END_MS) return
    const report = backend.report()
    const tenantOf = new Map(
      report.progress.map(({ requestId }) => [requestId, backend.tenantOf(requestId)]),
    )
    const madeAtMs = this.#world.nowMs
    this.#world.send(this.#pool.host, () => this.#pool.report(report, madeAtMs))
    for (const tenant of this.#tenants) {
      const own = report.progress.filter(
        ({ requestId }) => tenantOf.get(requestId) === tenant.tenantId,
      )
      if (own.length === 0) continue
      this.#world.send(tenant.host, () => {
        const { nowMs } = this.#world
        tenant.call((core) => own.forEach((update) => core.progress(update, nowMs)))
      })
    }
  }

  #pushRecords(backend: BackendActor): void {
    for (const [requestId, { tenantId, record }] of backend.unacknowledged) {
      const tenant = this.#tenants.find((candidate) => candidate.tenantId === tenantId)
      if (tenant === undefined) throw new Error(`no tenant ${tenantId}`)
      this.#world.send(tenant.host, () => {
        if (!this.#settle(tenant, record)) return
        this.#world.send(backend.host, () => backend.unacknowledged.delete(requestId))
      })
    }
  }

  /** Whether the record was taken in and that was answered. */
  #settle(tenant: TenantActor, record: SettledRecord): boolean {
    const { nowMs } = this.#world
    const { requestId } = record
    const result = tenant.call((core) => core.settle(record, nowMs))
    if (!result.ran) return false
    if (result.value === 'conflict' || result.value === 'late') {
      this.#auditor.fail('I3', `${requestId} was settled as ${result.value}`)
    }
    if (result.value === 'applied') {
      this.#log({ kind: 'applied', tenantId: tenant.tenantId, requestId })
    }
    this.#count(`settle_${result.value}`)
    return result.answered
  }

  #sweep(): void {
    for (const tenant of this.#tenants) {
      this.#world.on(tenant.host, 0, () => {
        const { nowMs } = this.#world
        const result = tenant.call((core) => core.sweep(nowMs))
        if (!result.ran) return
        for (const requestId of result.value.ask) this.#askBackends(tenant, requestId)
      })
    }
  }

  /** Unknown is only what every backend of the pool says it does not know. */
  #askBackends(tenant: TenantActor, requestId: string): void {
    const silent = new Set(this.#backends.map(({ backendId }) => backendId))
    this.#count('asked')
    for (const backend of this.#backends) {
      this.#world.send(backend.host, () => {
        const answer = backend.lookUp(requestId)
        this.#world.send(tenant.host, () => {
          if (answer.kind === 'unknown') {
            silent.delete(backend.backendId)
            if (silent.size > 0) return
          }
          const { nowMs } = this.#world
          const result = tenant.call((core) => core.answer(requestId, answer, nowMs))
          if (!result.ran || result.value !== 'released') return
          this.#count('released')
          this.#log({ kind: 'released', tenantId: tenant.tenantId, requestId })
        })
      })
    }
  }

  /** Every record once more, and twice: nothing may move. */
  #deliverAgain(): void {
    for (const backend of this.#backends) {
      for (const { tenantId, record } of backend.records.values()) {
        this.#log({ kind: 'recorded', tenantId, record })
        const tenant = this.#tenants.find((candidate) => candidate.tenantId === tenantId)
        if (tenant === undefined) continue
        const before = tenant.store.balances.get('tenant')
        const status = tenant.pretend((core) => core.settle(record, this.#world.nowMs))
        if (status !== 'exists') this.#auditor.fail('I3', `${record.requestId} again is ${status}`)
        const after = tenant.store.balances.get('tenant')
        if (before !== after) this.#auditor.fail('I3', `${record.requestId} was charged again`)
      }
    }
  }

  #every(periodMs: number, spanMs: number, run: () => void): void {
    for (let atMs = periodMs; atMs <= spanMs; atMs += periodMs) this.#world.after(atMs, run)
  }

  #log(event: SimEvent): void {
    this.#events.push({ atMs: this.#world.nowMs, event })
  }

  #count(what: string): void {
    this.#counts[what] = (this.#counts[what] ?? 0) + 1
  }

  #result(): SimulationResult {
    const leased = this.#events.filter(
      ({ event }) => event.kind === 'admitted' && event.leaseId !== null,
    ).length
    const crashes = this.#tenants.reduce((sum, tenant) => sum + tenant.crashes, 0)
    const admitted = this.#events.filter(({ event }) => event.kind === 'admitted').length
    return {
      seed: this.#seed,
      violations: this.#auditor.violations,
      counts: { ...this.#counts, ...this.#auditor.turnCounts, admitted, leased, crashes },
      fingerprint: asText([this.#counts, this.#tenants.map(({ store }) => store.postings)]),
    }
  }
}

/** Whether no answer is under way that holds some of these limits. */
function isAlone({ store: { buckets } }: TenantActor, limits: readonly LimitState[]): boolean {
  return limits.every(({ limitId }) => (buckets.get(limitId)?.held ?? 0) === 0)
}

const TENANT_IDS = ['prepaid', 'postpaid']
const FIRST_REPORTS_END_MS = 1_000_000 + LOAD_MS + 240_000

/** Requests and output tokens a minute, and places: from tight to so wide that leases are lent. */
const LIMIT_SIZES = [
  [30, 10_000, 8],
  [120, 60_000, 50],
  [6000, 600_000, 500],
  [60_000, 60_000_000, 5000],
  [600_000, 600_000_000, 5000],
] as const

/** Caps that bind, per tenant and per key, and one meter per dimension that never does. */
function drawLimits(random: Random): Limit[] {
  const [requestsPerMinute, tokensPerMinute, max] = random.pick(LIMIT_SIZES)
  const burstMs = 6000
  return [
    { id: 'requests', scope: {}, dimension: 'requests', perMinute: requestsPerMinute, burstMs },
    { id: 'input', scope: {}, dimension: 'inputTokens', perMinute: 10 * tokensPerMinute, burstMs },
    {
      id: 'uncached',
      scope: {},
      dimension: 'uncachedInputTokens',
      perMinute: 4 * tokensPerMinute,
      burstMs,
    },
    { id: 'output', scope: {}, dimension: 'outputTokens', perMinute: tokensPerMinute, burstMs },
    { id: 'tokens', scope: {}, dimension: 'tokens', perMinute: 3 * tokensPerMinute, burstMs },
    {
      id: 'k1-requests',
      scope: { keyId: 'k1' },
      dimension: 'requests',
      perMinute: Math.ceil(requestsPerMinute * 0.7),
      burstMs,
    },
    { id: 'concurrency', scope: {}, dimension: 'concurrency', max },
    ...RATE_MEASURES.map((dimension): Limit => ({
      id: `meter-${dimension}`,
      scope: {},
      dimension,
      perMinute: 1,
      burstMs: 60_000 * 1e9,
    })),
  ]
}
