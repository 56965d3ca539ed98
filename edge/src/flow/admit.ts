import { LIMITS, requestedMaxTokens, thinkingEnabled } from '#protocol/chat-completions.ts'
import type { ChatRequest } from '#protocol/chat-completions.ts'
import { ApiError } from '#protocol/errors.ts'
import type { Cost } from '../admission/cost.ts'
import type { RequestSize } from '../admission/estimator.ts'
import type { QueuedRequest } from '../admission/tenant-queue.ts'
import type { AppContext, AppDeps } from '../context.ts'
import { logFailure, overloaded } from '../failures.ts'
import { tenantObject } from '../objects/stubs.ts'
import { NO_LIMITS } from '../rate-limit-headers.ts'
import { withPauses } from '../slices.ts'
import { parseUsd } from '../usd.ts'
import { acknowledge, admitUnasked, callsOf, reportsOf } from './lease-book.ts'
import type { LeaseBook, ScopeEntry } from './lease-book.ts'
import { refusalError } from './refusals.ts'

/** A request with leave of its tenant's limits and money. */
export interface Admitted {
  readonly grantedOutputTokens: number
  readonly estimate: Cost
  readonly weight: number
  /** For room under its tenant's own limits. */
  readonly waitedMs: number
  /** How it came about: by a lease in hand, by the object, or without it since it is down. */
  readonly by: 'lease' | 'object' | 'allowance'
  readonly entry: ScopeEntry
}

/** DeepSeek's own defaults where a request names no limit: of an answer, and of one with thinking. */
const OUTPUT_DEFAULT = 8_192
const OUTPUT_DEFAULT_THINKING = 65_536
const OUTPUT_DEFAULT_MAX_EFFORT = 131_072
/** What is spent under leases is told to the object about this often. */
const REPORT_EVERY_MS = 1_000

/** What of a request counts for its estimate: its bytes, and how long an answer it allows. */
export function sizeOf(request: ChatRequest, bodyBytes: number): RequestSize {
  return { bodyBytes, outputTokensMax: requestedMaxTokens(request) ?? outputDefault(request) }
}

function outputDefault(request: ChatRequest): number {
  if (!thinkingEnabled(request)) return OUTPUT_DEFAULT
  const effort = request.reasoning_effort
  const most = effort === 'max' || effort === 'xhigh' || effort === 'ultra'
  return Math.min(LIMITS.maxTokens, most ? OUTPUT_DEFAULT_MAX_EFFORT : OUTPUT_DEFAULT_THINKING)
}

/** `X-Max-Cost`: what the caller pays for this request at most, in dollars. */
export function maxCostOf(c: AppContext): number | null {
  const text = c.req.header('x-max-cost')
  if (text === undefined) return null
  const pico = parseUsd(text)
  if (pico === null || pico > BigInt(Number.MAX_SAFE_INTEGER)) {
    const message = "'X-Max-Cost' must be dollars as a decimal number, for example 0.05."
    throw new ApiError('invalid_request_error', message, { param: 'x-max-cost' })
  }
  return Number(pico)
}

/** A stream is told that it waits; a whole answer's status line is all it has, so it waits less. */
const WAIT_STREAM_MS = 30_000
const WAIT_WHOLE_MS = 10_000
const WAIT_MAX_MS = 120_000

/** `X-Max-Wait`: seconds to wait for room under the caller's own limits; 0 is answered at once. */
export function maxWaitOf(c: AppContext, streamed: boolean): number {
  const text = c.req.header('x-max-wait')
  if (text === undefined) return streamed ? WAIT_STREAM_MS : WAIT_WHOLE_MS
  const ms = /^\d{1,3}(\.\d{1,3})?$/.test(text) ? Math.round(Number(text) * 1000) : -1
  if (ms >= 0 && ms <= WAIT_MAX_MS) return ms
  const message = `'X-Max-Wait' must be seconds from 0 to ${WAIT_MAX_MS / 1000}, for example 2.5.`
  throw new ApiError('invalid_request_error', message, { param: 'x-max-wait' })
}

/** Who asks for what, apart from the chat itself. */
export interface Asked extends RequestSize {
  readonly model: string
  readonly maxCostPico: number | null
  readonly maxWaitMs: number
  /** Aborts when the client has gone. */
  readonly signal: AbortSignal
}

/**
 * Reserves limits and money for one request: out of a lease when there is one, else by a call to
 * the tenant's object, which may lend one for the next, and may let the request wait. Throws the
 * refusal.
 */
export async function admit(
  c: AppContext,
  asked: Asked,
  book: LeaseBook,
  deps: AppDeps,
): Promise<Admitted> {
  const { tenantId, keyId, access } = c.get('caller')
  const { model, signal, maxWaitMs, ...rest } = asked
  const scope = { projectId: access.projectId, keyId, model }
  const entry = book.entry(tenantId, scope)
  const request = { ...rest, requestId: c.get('trace').requestId }
  const spent = entry.leases.spend(request, deps.now())
  if (spent !== null) {
    entry.admitted += 1
    c.get('trace').admittedBy = 'lease'
    c.get('trace').limits = entry.news?.limits ?? NO_LIMITS
    c.executionCtx.waitUntil(reportSpends(c, entry, { book, deps }))
    return { ...pick(spent), weight: entry.news?.weight ?? 1, waitedMs: 0, by: 'lease', entry }
  }
  return askTenant(c, { entry, request: { ...request, scope, maxWaitMs }, signal, book, deps })
}

interface Asking {
  readonly entry: ScopeEntry
  readonly request: QueuedRequest
  readonly signal: AbortSignal
  readonly book: LeaseBook
  readonly deps: AppDeps
}

async function askTenant(c: AppContext, asking: Asking): Promise<Admitted> {
  const { entry, request, signal, book, deps } = asking
  const trace = c.get('trace')
  const askedAtMs = deps.now()
  const ask = entry.leases.ask(book.newId('lease'), askedAtMs)
  const tenant = tenantObject(c.env, entry.tenantId)
  const answering = tenant.admit(request, ask, askedAtMs).catch((cause: unknown) => {
    logFailure(deps, 'object_unreachable', cause, { request_id: request.requestId })
    return null
  })
  const answer = await Promise.race([answering, aborted(signal)])
  if (answer === null) return admitWithoutObject(c, asking)
  if (answer === 'aborted') {
    // By the same stub, so that it cannot come before the request itself.
    const leaving = tenant.release(request.requestId, 'client_gone', deps.now())
    c.executionCtx.waitUntil(leaving.catch(() => undefined))
    throw overloaded('The request was given up while it waited.', deps.random)
  }
  trace.limits = answer.limits
  if (answer.waited !== null) trace.addPhase('limit', answer.waited.ms)
  if (answer.status === 'refused') {
    throw refusalError(answer, request.scope.model, deps.random)
  }
  const { limits, weight, billing, price, lease, estimate, holdPico } = answer
  entry.news = { limits, weight, billing, price }
  if (lease !== null) entry.leases.receive(lease, askedAtMs)
  entry.leases.count(estimate, holdPico, deps.now())
  entry.admitted += 1
  trace.admittedBy = 'object'
  if (lease !== null || reportsOf(entry, askedAtMs).length > 0) {
    c.executionCtx.waitUntil(reportSpends(c, entry, { book, deps }))
  }
  return { ...pick(answer), weight, waitedMs: answer.waited?.ms ?? 0, by: 'object', entry }
}

/** A tenant that pays later is served on, within bounds; one that pays first is not. */
function admitWithoutObject(c: AppContext, { entry, request, book, deps }: Asking): Admitted {
  const spent = admitUnasked(entry, request, (prefix) => book.newId(prefix))
  if (spent === null) {
    throw overloaded('The service cannot look up this account right now. Try again.', deps.random)
  }
  entry.admitted += 1
  c.get('trace').admittedBy = 'allowance'
  c.executionCtx.waitUntil(reportSpends(c, entry, { book, deps }))
  return { ...pick(spent), weight: entry.news?.weight ?? 1, waitedMs: 0, by: 'allowance', entry }
}

export function aborted(signal: AbortSignal): Promise<'aborted'> {
  if (signal.aborted) return Promise.resolve('aborted')
  return new Promise((resolve) => {
    signal.addEventListener('abort', () => resolve('aborted'), { once: true })
  })
}

function pick({
  grantedOutputTokens,
  estimate,
}: Pick<Admitted, 'grantedOutputTokens' | 'estimate'>) {
  return { grantedOutputTokens, estimate }
}

/**
 * Fetches the next lease, once a second while there is something to tell, tells the tenant's object
 * what was spent, and gives the last one back when the scope has gone idle. One request at a time
 * does this for its scope; if it is cut short, a later one finds what is left.
 */
async function reportSpends(
  c: AppContext,
  entry: ScopeEntry,
  { book, deps }: { readonly book: LeaseBook; readonly deps: AppDeps },
): Promise<void> {
  if (Date.now() < entry.reportingUntilMs) return
  let admittedBefore = -1
  try {
    for (;;) {
      entry.reportingUntilMs = Date.now() + 3 * REPORT_EVERY_MS
      await scheduler.wait(REPORT_EVERY_MS)
      const { admitted } = entry
      const idle = admitted === admittedBefore
      admittedBefore = admitted
      // A long report takes its time, and the lease in hand may not run out meanwhile.
      if (idle) entry.leases.close()
      else await refill(c, entry, { book, deps })
      const told = await reportNow(c, entry, deps.now())
      if (idle && !told && entry.admitted === admitted) return
    }
  } catch (cause) {
    logFailure(deps, 'object_unreachable', cause)
  } finally {
    entry.reportingUntilMs = 0
  }
}

/** Whether there was anything to tell. */
async function reportNow(c: AppContext, entry: ScopeEntry, nowMs: number): Promise<boolean> {
  const reports = reportsOf(entry, nowMs)
  if (reports.length === 0) return false
  for await (const call of withPauses(callsOf(reports))) {
    const counted = await tenantObject(c.env, entry.tenantId).reportLeases(call, nowMs)
    acknowledge(entry, call, counted)
  }
  return true
}

async function refill(
  c: AppContext,
  entry: ScopeEntry,
  { book, deps }: { readonly book: LeaseBook; readonly deps: AppDeps },
): Promise<void> {
  const nowMs = deps.now()
  if (!entry.leases.wantsRefill(nowMs)) return
  const ask = entry.leases.ask(book.newId('lease'), nowMs)
  const refilled = await tenantObject(c.env, entry.tenantId).refill(entry.scope, ask, nowMs)
  if (refilled === null) return
  const { lease, limits } = refilled
  if (lease !== null) entry.leases.receive(lease, nowMs)
  if (entry.news !== null) entry.news = { ...entry.news, limits }
}

/** Gives back all that was reserved for a request which no backend has taken. */
export async function release(
  c: AppContext,
  { entry, by }: Admitted,
  reason: string,
  deps: AppDeps,
): Promise<void> {
  try {
    // What the object has not heard of it cannot give back.
    if (by !== 'object') await reportNow(c, entry, deps.now())
    const tenant = tenantObject(c.env, entry.tenantId)
    await tenant.release(c.get('trace').requestId, reason, deps.now())
  } catch (cause) {
    // The object will find out from the backend that the request was never taken.
    logFailure(deps, 'object_unreachable', cause)
  }
}
