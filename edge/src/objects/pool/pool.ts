import { DurableObject } from 'cloudflare:workers'
import { parseCapacityReport } from '#protocol/capacity-report.ts'
import type { CapacityReport, ReporterClaims, ReportReply } from '#protocol/capacity-report.ts'
import type { Waiter } from '../../admission/fair-queue.ts'
import {
  DEFAULT_POOL_POLICY,
  GRANTED_AT_STEP_MS,
  PoolAdmission,
  quietUntilMs,
} from '../../admission/pool-admission.ts'
import type { TurnLease, TurnLeaseAsk, TurnNews } from '../../admission/turn-leases.ts'
import type { Env } from '../../env.ts'
import { tenantObject } from '../stubs.ts'
import { WaitingCalls } from '../waiting-calls.ts'
import { RunningRequests } from './running-requests.ts'

export interface TurnRequest extends Omit<Waiter, 'deadlineMs'> {
  readonly waitMs: number
}

export type TurnRefusal = 'full' | 'too_large' | 'no_backend' | 'timeout'

export type Turn =
  | {
      readonly status: 'granted'
      /** False: no backend of this pool has ever reported, so nothing is known to share out. */
      readonly managed: boolean
      /** Room for the isolate's next requests, where it asked for some. */
      readonly lease: TurnLease | null
    }
  | { readonly status: 'refused'; readonly reason: TurnRefusal }

export interface PoolView {
  readonly managed: boolean
  readonly backends: readonly CapacityReport[]
  readonly waiters: number
  readonly waitingTokens: number
}

/** Set by the Worker, which has checked the token; nothing but the Worker reaches an object. */
export const REPORTER_HEADER = 'x-sluice-reporter'

/** Without a connected backend: how long a request waits for one to come back. */
const NO_BACKEND_WAIT_MS = 2_000
/** Without a connected backend: how many requests at a time are let through to find out. */
const PROBES_MAX = 4
const PROBE_TTL_MS = 10_000
const MANAGED = 'managed'
const GRANTED_AT = 'granted_at_ms'
const GRANTED = { status: 'granted', managed: true, lease: null } as const satisfies Turn

/**
 * One pool's live capacity and the queue for it. Waiters are open calls and reports come several
 * times a second, so the state is in memory; a new object grants nothing until what the old one
 * granted must have shown in a report. A pool whose backends do not report grants everything.
 */
export class Pool extends DurableObject<Env> {
  readonly #calls = new WaitingCalls<Turn>()
  readonly #running = new RunningRequests()
  readonly #reports = new Map<string, CapacityReport>()
  readonly #probes = new Map<string, number>()
  #admission = new PoolAdmission(DEFAULT_POOL_POLICY)
  #managed = false
  #grantedAtMs = 0
  #quietUntilMs = 0

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    void ctx.blockConcurrencyWhile(async () => {
      this.#managed = (await ctx.storage.get<boolean>(MANAGED)) ?? false
      const grantedAtMs = (await ctx.storage.get<number>(GRANTED_AT)) ?? 0
      this.#quietUntilMs = quietUntilMs(grantedAtMs)
      this.#admission = new PoolAdmission(DEFAULT_POOL_POLICY, this.#quietUntilMs)
    })
  }

  /** A backend's WebSocket; the Worker has checked who it is. */
  override async fetch(request: Request): Promise<Response> {
    const claims = JSON.parse(request.headers.get(REPORTER_HEADER) ?? '') as ReporterClaims
    const { 0: client, 1: server } = new WebSocketPair()
    const earlier = this.ctx.getWebSockets(claims.backendId)
    this.ctx.acceptWebSocket(server, [claims.backendId])
    server.serializeAttachment(claims)
    for (const socket of earlier) socket.close(1000, 'replaced')
    return new Response(null, { status: 101, webSocket: client })
  }

  override async webSocketMessage(socket: WebSocket, message: string | ArrayBuffer): Promise<void> {
    const claims = socket.deserializeAttachment() as ReporterClaims
    const report = typeof message === 'string' ? parseCapacityReport(message, claims) : null
    if (report === null) return
    if (!this.#managed) {
      this.#managed = true
      await this.ctx.storage.put(MANAGED, true)
    }
    const nowMs = Date.now()
    if (this.#admission.report(report, nowMs)) {
      this.#reports.set(report.backendId, report)
      this.#dispatch(nowMs)
      this.ctx.waitUntil(this.#tellTenants(report, nowMs))
    }
    socket.send(JSON.stringify({ kind: 'ack', seq: report.seq } satisfies ReportReply))
  }

  override async webSocketClose(socket: WebSocket): Promise<void> {
    this.#disconnected(socket)
  }

  override async webSocketError(socket: WebSocket): Promise<void> {
    this.#disconnected(socket)
  }

  /** Resolves when it is the request's turn, or when it will not be. */
  async acquire(request: TurnRequest, ask: TurnLeaseAsk | null): Promise<Turn> {
    if (!this.#managed) return { status: 'granted', managed: false, lease: null }
    const nowMs = Date.now()
    const { waitMs, ...waiter } = request
    this.#running.add(waiter.id, waiter.tenantId, nowMs)
    if (this.#reports.size === 0 && this.#mayProbe(waiter.id, nowMs)) return GRANTED
    const wait = this.#reports.size === 0 ? Math.min(waitMs, this.#backendWaitMs(nowMs)) : waitMs
    const answer = this.#admission.request({ ...waiter, deadlineMs: nowMs + wait }, nowMs)
    if (answer.status === 'granted') {
      this.#noteGrant(nowMs)
      return { ...GRANTED, lease: this.#lend(ask, nowMs) }
    }
    if (answer.status === 'refused') return this.#refuse(waiter.id, answer.reason)
    this.#schedule()
    return this.#calls.wait(waiter.id)
  }

  /** Whoever waited has gone, was not dispatched after all, or has ended. */
  finish(requestId: string): void {
    this.#end(requestId)
    this.#dispatch(Date.now())
  }

  /** What an isolate did with the turns it was lent, and its next lease where it asks for one. */
  tell({ closed, ended }: TurnNews, ask: TurnLeaseAsk | null): TurnLease | null {
    const nowMs = Date.now()
    for (const lease of closed) {
      this.#admission.close(lease, nowMs)
      for (const { id, tenantId } of lease.running) this.#running.add(id, tenantId, nowMs)
    }
    for (const requestId of ended) this.#end(requestId)
    this.#dispatch(nowMs)
    return this.#lend(ask, nowMs)
  }

  view(): PoolView {
    const { waiters, tokens } = this.#admission.waiting
    const backends = [...this.#reports.values()].map((report) => ({ ...report, progress: [] }))
    return { managed: this.#managed, backends, waiters, waitingTokens: tokens }
  }

  #lend(ask: TurnLeaseAsk | null, nowMs: number): TurnLease | null {
    if (ask === null || this.#reports.size === 0) return null
    const lease = this.#admission.lend(ask, nowMs)
    if (lease !== null) this.#noteGrant(nowMs)
    return lease
  }

  #end(requestId: string): void {
    this.#admission.cancel(requestId)
    this.#admission.finish(requestId)
    this.#calls.answer(requestId, this.#refuse(requestId, 'timeout'))
    this.#probes.delete(requestId)
    this.#running.delete(requestId)
  }

  #disconnected(socket: WebSocket): void {
    const { backendId, incarnation } = socket.deserializeAttachment() as ReporterClaims
    const replaced = this.ctx.getWebSockets(backendId).some((other) => other !== socket)
    if (replaced || this.#reports.get(backendId)?.incarnation !== incarnation) return
    this.#reports.delete(backendId)
    this.#admission.forget(backendId)
  }

  #mayProbe(requestId: string, nowMs: number): boolean {
    for (const [id, untilMs] of this.#probes) if (nowMs >= untilMs) this.#probes.delete(id)
    if (this.#probes.size >= PROBES_MAX) return false
    this.#probes.set(requestId, nowMs + PROBE_TTL_MS)
    return true
  }

  /** A new object could grant nothing yet if backends were there: so long they may take as well. */
  #backendWaitMs(nowMs: number): number {
    return Math.max(0, this.#quietUntilMs - nowMs) + NO_BACKEND_WAIT_MS
  }

  #refuse(requestId: string, reason: TurnRefusal): Turn {
    this.#running.delete(requestId)
    return { status: 'refused', reason }
  }

  #dispatch(nowMs: number): void {
    const reason = this.#reports.size === 0 ? 'no_backend' : 'timeout'
    for (const { id } of this.#admission.expire(nowMs)) {
      this.#calls.answer(id, this.#refuse(id, reason))
    }
    const grants = this.#admission.dispatch(nowMs)
    if (grants.length > 0) this.#noteGrant(nowMs)
    for (const { requestId } of grants) this.#calls.answer(requestId, GRANTED)
    this.#schedule()
  }

  #schedule(): void {
    this.#calls.wakeAt(this.#admission.nextTickMs(), () => this.#dispatch(this.#calls.nowMs()))
  }

  /**
   * Answers wait until it is safe, once a second: a new object that did not know of a grant or a
   * lease that an isolate has would give its room away again.
   */
  #noteGrant(nowMs: number): void {
    if (nowMs - this.#grantedAtMs < GRANTED_AT_STEP_MS) return
    this.#grantedAtMs = nowMs
    void this.ctx.storage.put(GRANTED_AT, nowMs)
  }

  /** Best effort: a tenant that cannot be told now is told with the next step, or by the record. */
  async #tellTenants(report: CapacityReport, nowMs: number): Promise<void> {
    const news = this.#running.news(report.progress, nowMs)
    await Promise.allSettled(
      [...news].map(([tenantId, updates]) =>
        tenantObject(this.env, tenantId).progress(updates, nowMs),
      ),
    )
  }
}
