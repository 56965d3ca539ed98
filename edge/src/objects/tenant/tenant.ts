import { DurableObject } from 'cloudflare:workers'
import type { UsageRecord } from '#protocol/usage-record.ts'
import type { Cost } from '../../admission/cost.ts'
import type { Account, Posting, PostStatus } from '../../admission/ledger.ts'
import type { Scope } from '../../admission/limits.ts'
import type { Billing } from '../../admission/money.ts'
import { LIST_PRICES } from '../../admission/prices.ts'
import type { Price, PriceVersion } from '../../admission/prices.ts'
import { refusal, TenantAdmission } from '../../admission/tenant-admission.ts'
import type {
  Admission,
  AdmitRequest,
  LeaseAsk,
  LeaseReport,
  Progress,
  Quote,
  Refusal,
} from '../../admission/tenant-admission.ts'
import { TenantQueue } from '../../admission/tenant-queue.ts'
import type { Gate, QueuedRequest, Waited, WaitEnd } from '../../admission/tenant-queue.ts'
import type { LimitState } from '../../admission/tenant-capacity.ts'
import type { Lease, ReservationRow } from '../../admission/tenant-store.ts'
import type { Env } from '../../env.ts'
import { parseEnv } from '../../env.ts'
import { askBackends } from '../../upstream/record-lookup.ts'
import { hasSchema, migrate } from '../migrations.ts'
import { WaitingCalls } from '../waiting-calls.ts'
import { DecisionLog } from './decisions.ts'
import type { Decision } from './decisions.ts'
import { KeysTable } from './keys-table.ts'
import type {
  CreateKeyStatus,
  CreateProjectStatus,
  KeySummary,
  NewIdentity,
  NewKey,
  NewProject,
  RotateStatus,
  Rotation,
  VerifiedKey,
} from './keys-table.ts'
import { TENANT_MIGRATIONS } from './schema.ts'
import { SqlTenantStore } from './sql-store.ts'
import { TermsTable } from './terms.ts'
import type { Terms } from './terms.ts'
import { canonicalRecord, readUsage } from './usage.ts'
import type { UsageQuery, UsageReport } from './usage.ts'

export interface NewTenant {
  readonly tenantId: string
  readonly name: string
  readonly createdAtMs: number
}

export type CreateTenantStatus = 'created' | 'exists'

/**
 * `waiting`: nothing is known of its request yet. `parked`: its key is not one of this tenant's.
 * `late`: its request had been given up as unknown; nobody is billed.
 */
export type ApplyStatus = 'applied' | 'exists' | 'waiting' | 'parked' | 'late' | 'conflict'

export interface TenantAdmitted {
  readonly status: 'admitted'
  readonly grantedOutputTokens: number
  readonly holdPico: number
  readonly price: Price
  /** What it was admitted with; the pool's queue goes by it. */
  readonly estimate: Cost
  readonly lease: Lease | null
  readonly limits: readonly LimitState[]
  readonly weight: number
  readonly billing: Billing['kind']
  /** For room under the tenant's own limits; null: it did not have to. */
  readonly waited: Waited | null
}

export interface TenantRefused extends Omit<Refusal, 'shortage'> {
  readonly waited: Waited | null
}

type Answer = TenantAdmitted | TenantRefused

export interface Refill {
  readonly lease: Lease | null
  readonly limits: readonly LimitState[]
}

export interface TenantAccount {
  readonly billing: Billing
  readonly weight: number
  readonly balancePico: bigint
  readonly heldPico: bigint
  readonly availablePico: bigint
  /** Requests that wait for room under the limits. */
  readonly waiting: number
}

export interface LedgerPage {
  readonly postings: (Posting & { readonly seq: number })[]
  readonly balances: Record<Account, bigint>
  readonly hasMore: boolean
}

/** Due things are looked at no sooner than this after the call that made them. */
const SWEEP_DELAY_MS = 2_000

/**
 * One tenant: its keys (as hashes), its limits, its money. Every method is one transaction, made of
 * calls on the admission core over this object's tables. Time and randomness come in as arguments.
 * Anyone can make up a key id and so reach an object that was never set up; such an object answers
 * "unknown" and writes nothing. Who waits for room under the tenant's limits is an open call, held
 * in memory: a reset breaks it, and its Worker treats the object as down.
 */
export class Tenant extends DurableObject<Env> {
  readonly #storage = this.ctx.storage
  readonly #sql = this.ctx.storage.sql
  readonly #store = new SqlTenantStore(this.ctx.storage)
  readonly #keys = new KeysTable(this.#sql)
  readonly #terms = new TermsTable(this.#sql)
  readonly #decisions = new DecisionLog(this.#sql)
  readonly #calls = new WaitingCalls<Answer>()
  #queue = new TenantQueue()
  #ready = false
  /** Once there, a tenant stays. */
  #created = false
  /** Built from the terms, and again when they change. */
  #core: { readonly terms: Terms; readonly admission: TenantAdmission } | null = null
  #alarmAtMs: number | null = null

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    void ctx.blockConcurrencyWhile(async () => {
      if (hasSchema(this.#sql)) this.#setUp()
      this.#alarmAtMs = await ctx.storage.getAlarm()
    })
  }

  createTenant(tenant: NewTenant): CreateTenantStatus {
    this.#setUp()
    return this.#store.transaction(() => {
      if (this.#exists()) return 'exists'
      this.#sql.exec(
        'INSERT INTO tenant (only_row, tenant_id, name, created_at_ms) VALUES (1, ?, ?, ?)',
        tenant.tenantId,
        tenant.name,
        tenant.createdAtMs,
      )
      return 'created'
    })
  }

  createKey(key: NewKey): CreateKeyStatus | 'tenant_unknown' {
    return this.#store.transaction(() =>
      this.#exists() ? this.#keys.create(key) : 'tenant_unknown',
    )
  }

  rotateKey(rotation: Rotation): RotateStatus {
    return this.#store.transaction(() =>
      this.#exists() ? this.#keys.rotate(rotation) : 'key_unknown',
    )
  }

  /** When the key was revoked, now or earlier; null when there is no such key. */
  revokeKey(keyId: string, nowMs: number): number | null {
    return this.#store.transaction(() => {
      if (!this.#exists()) return null
      this.#admission().bumpKeyEpoch()
      return this.#keys.revoke(keyId, nowMs)
    })
  }

  /** All keys in the order they were made; null when there is no such tenant. */
  listKeys(): KeySummary[] | null {
    return this.#exists() ? this.#keys.list() : null
  }

  verifyKey(keyId: string, secretHash: Uint8Array, nowMs: number): VerifiedKey {
    if (!this.#exists()) return { status: 'unknown' }
    return this.#store.transaction(() => this.#keys.verify(keyId, secretHash, nowMs))
  }

  verifyIdentity(identity: NewIdentity, nowMs: number): VerifiedKey {
    if (!this.#exists()) return { status: 'unknown' }
    return this.#store.transaction(() => this.#keys.verifyIdentity(identity, nowMs))
  }

  createProject(project: NewProject): CreateProjectStatus | 'tenant_unknown' {
    return this.#store.transaction(() =>
      this.#exists() ? this.#keys.createProject(project) : 'tenant_unknown',
    )
  }

  listProjects(): NewProject[] | null {
    return this.#exists() ? this.#keys.listProjects() : null
  }

  /**
   * Reserves for one request, and lends the isolate some more where it asks and there is plenty.
   * The key is looked at again: what an isolate remembers of it may be a second and a half old.
   * Resolves when the request has room under the limits, or will not have it in the time it has.
   */
  async admit(request: QueuedRequest, ask: LeaseAsk | null, nowMs: number): Promise<Answer> {
    if (!this.#exists()) return { ...refusal('key'), waited: null }
    this.#calls.noteTime(nowMs)
    const maxWaitMs = Math.min(request.maxWaitMs, this.#coreNow().terms.maxWaitMs)
    const { answer, ended } = this.#inQueue(() =>
      this.#queue.arrive(this.#gate(nowMs), { ...request, maxWaitMs }, ask, nowMs),
    )
    this.#endWaits(ended, nowMs)
    this.#schedule()
    if (answer.status === 'waiting') return this.#calls.wait(request.requestId)
    return this.#conclude({ request, answer, waited: null }, nowMs)
  }

  /** A lease alone, for an isolate whose last one runs out, and where the limits stand now. */
  refill(scope: Scope, ask: LeaseAsk, nowMs: number): Refill | null {
    return this.#store.transaction(() => {
      const known = this.#exists() && this.#keys.statusOf(scope.keyId, nowMs) === 'valid'
      if (!known) return null
      this.#wake(nowMs)
      const admission = this.#admission()
      const mayLend = this.#queue.mayLend(admission, scope)
      const lease = mayLend ? admission.refill(scope, ask, nowMs) : null
      return { lease, limits: this.#admission().limits(scope, nowMs) }
    })
  }

  /** Whether the key may still be used, for a request that has waited since it was admitted. */
  keyStatus(keyId: string, nowMs: number): VerifiedKey['status'] {
    return this.#exists() ? this.#keys.statusOf(keyId, nowMs) : 'unknown'
  }

  /** These requests still run, says the isolate that streams them. */
  heartbeat(requestIds: readonly string[], nowMs: number): void {
    this.#store.transaction(() => {
      if (this.#exists()) this.#admission().heartbeat(requestIds, nowMs)
    })
  }

  /** Takes in what isolates admitted under leases; for each report the number it has got to. */
  reportLeases(reports: readonly LeaseReport[], nowMs: number): number[] {
    const counted = this.#store.transaction(() => {
      if (!this.#exists()) return reports.map(() => 0)
      this.#wake(nowMs)
      return reports.map((report) => this.#admission().report(report, nowMs))
    })
    this.#serve(nowMs)
    return counted
  }

  progress(updates: readonly Progress[], nowMs: number): void {
    this.#store.transaction(() => {
      if (!this.#exists()) return
      for (const update of updates) this.#admission().progress(update, nowMs)
    })
    this.#serve(nowMs)
  }

  /**
   * Gives all of a reservation back, or a place in the queue: its request was refused, or its client
   * has gone, before anything was made for it.
   */
  release(requestId: string, reason: string, nowMs: number): boolean {
    const released = this.#store.transaction(() => {
      if (!this.#exists()) return false
      const waiting = this.#queue.find(requestId)
      const scope = waiting?.request.scope ?? this.#reservation(requestId)?.scope
      const done = this.#queue.leave(requestId) || this.#admission().release(requestId, nowMs)
      const decision = decisionOf({ requestId, scope: { model: scope?.model ?? '' } }, nowMs)
      if (done) this.#decide({ ...decision, outcome: 'released', reason }, nowMs)
      return done
    })
    // Its own call, if it waited, has nobody left to hear this.
    this.#calls.answer(requestId, { ...refusal('rate'), waited: null })
    this.#serve(nowMs)
    return released
  }

  quote(request: Omit<AdmitRequest, 'requestId'>, nowMs: number): Quote | null {
    return this.#exists() ? this.#admission().quote(request, nowMs) : null
  }

  limitStates(scope: Scope, nowMs: number): readonly LimitState[] | null {
    return this.#exists() ? this.#admission().limits(scope, nowMs) : null
  }

  /** What was decided about a request; null when nothing is known, or no longer. */
  decision(requestId: string): Decision | null {
    if (!this.#exists()) return null
    const waiting = this.#queue.find(requestId)
    if (waiting !== null) {
      const { request, sinceMs, binding } = waiting
      const waited = { ms: Math.max(0, this.#calls.nowMs() - sinceMs), binding }
      return { ...decisionOf(request, sinceMs), outcome: 'waiting', binding, waited }
    }
    const known = this.#decisions.find(requestId)
    if (known !== null) return known
    const reservation = this.#reservation(requestId)
    if (reservation !== undefined) {
      return { ...decisionOf({ requestId, ...reservation }, reservation.admittedAtMs) }
    }
    const posting = this.#store.journal.find(requestId)
    if (posting?.usage == null) return null
    const { model, admittedAtMs } = posting.usage
    const outcome = posting.kind === 'void' ? 'released' : 'admitted'
    return { ...decisionOf({ requestId, scope: { model } }, admittedAtMs), outcome }
  }

  /**
   * Counts each record exactly once, whatever arrives how often and in what order; one status per
   * record. A record whose key is not ours (or that reaches an object never set up) is kept
   * uncounted: a signed record is a fact, and facts are not thrown away.
   */
  applyUsageRecords(records: readonly UsageRecord[], nowMs: number): ApplyStatus[] {
    this.#setUp()
    const statuses = this.#store.transaction(() => {
      this.#wake(nowMs)
      const ids = records.map(({ requestId }) => requestId)
      this.#store.usageRecords.expect(ids)
      this.#store.expect(ids)
      return records.map((record) => this.#applyUsageRecord(record, nowMs))
    })
    this.#serve(nowMs)
    return statuses
  }

  usage(query: UsageQuery): UsageReport | null {
    if (!this.#exists()) return null
    return { ...readUsage(this.#sql, query), parkedRecords: this.#countParked() }
  }

  ledger(after: number, limit: number): LedgerPage | null {
    if (!this.#exists()) return null
    const read = this.#store.postings(after, limit + 1)
    const balances = this.#store.allBalances()
    return { postings: read.slice(0, limit), balances, hasMore: read.length > limit }
  }

  terms(): Terms | null {
    return this.#exists() ? this.#coreNow().terms : null
  }

  changeTerms(change: Partial<Omit<Terms, 'contract'>>): Terms | null {
    const changed = this.#store.transaction(() => {
      if (!this.#exists()) return null
      const terms = { ...this.#terms.get(), ...change }
      this.#terms.put(terms)
      this.#core = null
      return terms
    })
    this.#serve(this.#calls.nowMs())
    return changed
  }

  addContractPrice(
    version: PriceVersion,
    versionsMax: number,
  ): 'added' | 'exists' | 'too_many' | 'tenant_unknown' {
    return this.#store.transaction(() => {
      if (!this.#exists()) return 'tenant_unknown'
      const terms = this.#terms.get()
      if (terms.contract.some((known) => known.version === version.version)) return 'exists'
      if (terms.contract.length >= versionsMax) return 'too_many'
      const contract = [...terms.contract, version].toSorted((a, b) => a.fromMs - b.fromMs)
      this.#terms.put({ ...terms, contract })
      this.#core = null
      return 'added'
    })
  }

  account(): TenantAccount | null {
    if (!this.#exists()) return null
    const { billing, weight } = this.#coreNow().terms
    const balancePico = this.#admission().balancePico()
    const availablePico = this.#admission().availablePico()
    const credit = billing.kind === 'postpaid' ? billing.creditPico : 0n
    const heldPico = balancePico + credit - availablePico
    const waiting = this.#queue.size
    return { billing, weight, balancePico, heldPico, availablePico, waiting }
  }

  topUp(id: string, amountPico: bigint, nowMs: number): PostStatus | 'tenant_unknown' {
    return this.#store.transaction(() =>
      this.#exists() ? this.#admission().topUp(`topup:${id}`, amountPico, nowMs) : 'tenant_unknown',
    )
  }

  /** Expires what is due and asks the backends what became of requests that no record came for. */
  override async alarm(): Promise<void> {
    this.#alarmAtMs = null
    if (!this.#exists()) return
    const swept = this.#store.transaction(() => {
      this.#decisions.write()
      return this.#admission().sweep(Date.now())
    })
    this.#serve(this.#calls.nowMs())
    // Before the backends are asked: an alarm that dies on the way must come again.
    if (swept.nextDueAtMs !== null) await this.#setAlarm(swept.nextDueAtMs)
    await this.#ask(swept.ask)
  }

  /** As the alarm does, of every open reservation older than `ageMs`; how many are left open. */
  async reconcile(ageMs: number, nowMs: number): Promise<number | null> {
    if (!this.#exists()) return null
    const swept = this.#store.transaction(() => this.#admission().sweep(nowMs))
    const open = this.#openReservations(nowMs - ageMs)
    await this.#ask([...new Set([...swept.ask, ...open])])
    return this.#openReservations(nowMs - ageMs).length
  }

  /** The core behind the keys: whoever has waited may have lost theirs. */
  #gate(nowMs: number): Gate {
    const admission = this.#admission()
    return {
      limitsOn: (scope) => admission.limitsOn(scope),
      admit: (request, ...rest) =>
        this.#keys.statusOf(request.scope.keyId, nowMs) === 'valid'
          ? admission.admit(request, ...rest)
          : refusal('key'),
    }
  }

  /** Gives turns to those who wait: after whatever may have made room, and when the timer says so. */
  #serve(nowMs: number): void {
    if (this.#queue.size > 0) {
      this.#endWaits(
        this.#inQueue(() => this.#queue.serve(this.#gate(nowMs), nowMs)),
        nowMs,
      )
    }
    this.#schedule()
  }

  /** One transaction with the queue. If it breaks, so do the calls of all who wait: none is left open. */
  #inQueue<Value>(run: () => Value): Value {
    try {
      return this.#store.transaction(run)
    } catch (cause) {
      this.#queue = new TenantQueue()
      this.#calls.fail(cause)
      throw cause
    }
  }

  #schedule(): void {
    this.#calls.wakeAt(this.#queue.nextTickMs(), () => this.#serve(this.#calls.nowMs()))
  }

  #endWaits(ended: readonly WaitEnd[], nowMs: number): void {
    for (const end of ended) {
      this.#calls.answer(end.request.requestId, this.#conclude(end, nowMs))
    }
  }

  /** What the caller is told, and what is remembered of it. */
  #conclude({ request, answer, waited }: Concluded, nowMs: number): Answer {
    const decision = { ...decisionOf(request, nowMs), limits: answer.limits, waited }
    if (answer.status === 'refused') {
      const { status, reason, limits, binding, retryAfterMs } = answer
      const refused = { reason, binding, retryAfterMs }
      if (reason !== 'key') this.#decide({ ...decision, ...refused, outcome: 'refused' }, nowMs)
      return { status, limits, ...refused, waited }
    }
    if (waited !== null) this.#decide(decision, nowMs)
    this.#wake(nowMs)
    const { reservation, lease, limits } = answer
    const { weight, billing } = this.#coreNow().terms
    const { grantedOutputTokens, holdPico, price, estimate } = reservation
    const granted = { grantedOutputTokens, holdPico, price, estimate, lease, limits, weight }
    return { status: 'admitted', ...granted, billing: billing.kind, waited }
  }

  #setUp(): void {
    if (this.#ready) return
    migrate(this.#storage, TENANT_MIGRATIONS)
    this.#ready = true
  }

  #exists(): boolean {
    if (!this.#ready) return false
    this.#created ||= this.#sql.exec('SELECT 1 FROM tenant').toArray().length === 1
    return this.#created
  }

  #coreNow(): { readonly terms: Terms; readonly admission: TenantAdmission } {
    if (this.#core !== null) return this.#core
    const terms = this.#terms.get()
    const prices = { list: LIST_PRICES, contract: terms.contract }
    const admission = new TenantAdmission(this.#store, { ...terms, prices })
    this.#core = { terms, admission }
    return this.#core
  }

  #admission(): TenantAdmission {
    return this.#coreNow().admission
  }

  #reservation(requestId: string): ReservationRow | undefined {
    return this.#store.reservations.get(requestId)
  }

  #openReservations(admittedUntilMs: number): string[] {
    return this.#sql
      .exec<{ id: string }>(
        "SELECT id FROM reservations WHERE json_extract(row, '$.admittedAtMs') <= ?",
        admittedUntilMs,
      )
      .toArray()
      .map(({ id }) => id)
  }

  async #ask(requestIds: readonly string[]): Promise<void> {
    if (requestIds.length === 0) return
    const settings = await parseEnv(this.env)
    const tools = {
      settings,
      fetch: (url: string, init: RequestInit) => fetch(url, init),
      now: Date.now,
    }
    for (const requestId of requestIds) {
      const model = this.#reservation(requestId)?.scope.model
      if (model === undefined) continue
      const heardOf = this.#store.holders.get(requestId) !== undefined
      const answer = await askBackends({ requestId, model, heardOf }, tools)
      if (answer === null) continue
      this.#store.transaction(() => {
        if (answer.kind === 'record') this.#applyUsageRecord(answer.record, Date.now())
        else this.#admission().answer(requestId, answer, Date.now())
      })
    }
  }

  /** Makes sure that the alarm comes; it finds out by itself when it is needed next. */
  #wake(nowMs: number): void {
    if (this.#alarmAtMs === null) void this.#setAlarm(nowMs + SWEEP_DELAY_MS)
  }

  #setAlarm(atMs: number): Promise<void> {
    this.#alarmAtMs = atMs
    return this.#storage.setAlarm(atMs)
  }

  #decide(decision: Decision, nowMs: number): void {
    this.#decisions.note(decision)
    this.#wake(nowMs)
  }

  #applyUsageRecord(record: UsageRecord, nowMs: number): ApplyStatus {
    const { requestId: id, keyId } = record
    const text = canonicalRecord(record)
    const received = this.#store.usageRecords.get(id)
    if (received !== undefined) return received.text === text ? 'exists' : 'conflict'
    const projectId = this.#exists() ? this.#keys.projectOf(keyId) : null
    const parked = projectId === null
    this.#store.usageRecords.put({ id, text, parked, receivedAtMs: nowMs })
    if (parked) return 'parked'
    const status = this.#admission().settle({ ...record, projectId }, nowMs)
    return status === 'parked' ? 'waiting' : status
  }

  #countParked(): number {
    return this.#sql
      .exec<{ count: number }>('SELECT count(*) AS count FROM usage_records WHERE parked = 1')
      .one().count
  }
}

interface Concluded {
  readonly request: AdmitRequest
  readonly answer: Admission | Refusal
  readonly waited: Waited | null
}

function decisionOf(
  request: { readonly requestId: string; readonly scope: Pick<Scope, 'model'> },
  atMs: number,
): Decision {
  return {
    requestId: request.requestId,
    atMs,
    model: request.scope.model,
    outcome: 'admitted',
    reason: null,
    limits: [],
    binding: null,
    retryAfterMs: null,
    waited: null,
  }
}
