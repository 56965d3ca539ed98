import { ApiError } from '#protocol/errors.ts'
import {
  DEADLINE_HEADER,
  GRANTED_OUTPUT_TOKENS_HEADER,
  PRIORITY_HEADER,
  RESUMABLE_HEADER,
} from '#protocol/headers.ts'
import type { AppContext, AppDeps } from '../context.ts'
import type { Pool } from '../env.ts'
import { tenantObject } from '../objects/stubs.ts'
import { callBackend } from '../upstream/backend.ts'
import { refusalOf } from '../upstream/backend-error.ts'
import { aborted, release } from './admit.ts'
import type { Admitted } from './admit.ts'
import { foreignRequest, meterForeign } from './foreign-engine.ts'
import { resolveDoubt } from './in-doubt.ts'
import { refusalError, turnError } from './refusals.ts'
import { giveTurnBack, takeTurn, takeTurnHere } from './turn.ts'
import type { TurnTools } from './turn.ts'

/** What is to be sent where, once it has been let in. */
export interface Job {
  readonly pool: Pool
  readonly body: Uint8Array
  readonly streamed: boolean
  readonly model: string
  /** Index of the pool's band and with it the engine's priority. */
  readonly band: Band
  /** How long the answer goes on without its client, to be taken up again; null: not at all. */
  readonly resumableSeconds: number | null
  /** Aborts when the client has gone. */
  readonly signal: AbortSignal
}

interface AdmittedJob extends Job {
  readonly admitted: Admitted
}

export type Band = 'normal' | 'flex'

const BANDS: Readonly<Record<Band, { readonly index: number; readonly priority: number }>> = {
  normal: { index: 0, priority: 0 },
  flex: { index: 2, priority: -5 },
}

/** A stream is told that it waits; a whole answer's status line is all it has, so it waits less. */
const QUEUE_STREAM_MS = 30_000
const QUEUE_WHOLE_MS = 20_000
/** Clients give up on a whole answer after ten minutes, and would send it again. */
const WHOLE_ANSWER_MS = 590_000
/** After waiting this long a key is looked at again before anything is made for it. */
const RECHECK_AFTER_MS = 400
const BUSY_PAUSE_MS = 400

/** Either the backend's 200, or why there is none; nothing is thrown. */
export type Dispatched =
  | { readonly kind: 'answer'; readonly upstream: Response }
  | { readonly kind: 'failed'; readonly error: ApiError }

/**
 * Waits for the request's turn and hands it to the backend. A backend that is busier than its
 * reports said is tried again until the queue's time is over. What was reserved is given back when
 * no backend took the request for certain; when that is in doubt, the reservation stays and the
 * tenant's object asks the backend.
 */
export async function dispatch(
  c: AppContext,
  job: AdmittedJob,
  tools: TurnTools,
): Promise<Dispatched> {
  const { deps } = tools
  const untilMs = deps.now() + (job.streamed ? QUEUE_STREAM_MS : QUEUE_WHOLE_MS)
  const startedAtMs = deps.now()
  try {
    for (;;) {
      const upstream = await attempt(c, job, tools, { startedAtMs, untilMs })
      if (upstream !== 'busy') return { kind: 'answer', upstream }
      await scheduler.wait(BUSY_PAUSE_MS * (1 + deps.random()))
    }
  } catch (error) {
    if (!(error instanceof ApiError)) throw error
    return { kind: 'failed', error }
  }
}

interface Span {
  readonly startedAtMs: number
  readonly untilMs: number
}

async function attempt(
  c: AppContext,
  job: AdmittedJob,
  tools: TurnTools,
  { startedAtMs, untilMs }: Span,
): Promise<Response | 'busy'> {
  const { deps } = tools
  const trace = c.get('trace')
  const managed = await waitForTurn(c, job, tools, untilMs)
  const calledAtMs = deps.now()
  trace.addPhase('queue', calledAtMs - startedAtMs)
  if (calledAtMs - startedAtMs >= RECHECK_AFTER_MS) await recheckKey(c, job, tools)
  const waitedMs = job.admitted.waitedMs + calledAtMs - startedAtMs
  const upstream = await callPool(c, job, deps, waitedMs).catch(async (error: unknown) => {
    // Whose client has gone may still run: its turn lapses, or shows in the backend's next report.
    if (!job.signal.aborted) await giveTurnBack(c, job.pool, trace.requestId, tools)
    c.executionCtx.waitUntil(resolveDoubt(c, job.pool, job.admitted, deps))
    throw error
  })
  trace.addPhase('backend', deps.now() - calledAtMs)
  if (upstream.status === 200) return upstream
  await giveTurnBack(c, job.pool, trace.requestId, tools)
  const error = await refusalOf(upstream, { requestId: trace.requestId, pool: job.pool }, deps)
  // Where nothing is reported nothing is shared out: whoever is full there says so to the client.
  const busy = managed && error.code === 'server_is_overloaded'
  if (busy && !job.signal.aborted && deps.now() + BUSY_PAUSE_MS < untilMs) return 'busy'
  await release(c, job.admitted, error.code, deps)
  throw error
}

/** The pool's answer; that of another engine's comes with its usage read as it passes. */
async function callPool(
  c: AppContext,
  job: AdmittedJob,
  deps: AppDeps,
  waitedMs: number,
): Promise<Response> {
  const { pool, admitted, model, streamed } = job
  const settings = c.get('settings')
  const call = {
    pool,
    path: '/v1/chat/completions',
    requestId: c.get('trace').requestId,
    caller: c.get('caller'),
    signal: job.signal,
  }
  if (pool.kind === 'sluice') {
    const headers = headersOf(job, waitedMs)
    return await callBackend({ ...call, headers, body: job.body }, settings, deps)
  }
  const { body, usageWanted } = foreignRequest(job.body, admitted.grantedOutputTokens)
  // It says nothing before a whole answer is there.
  const headersWithinMs = streamed ? settings.backendHeadersTimeoutMs : WHOLE_ANSWER_MS - waitedMs
  const upstream = await callBackend({ ...call, body, headersWithinMs }, settings, deps)
  if (upstream.status !== 200) return upstream
  const { id: poolId } = pool
  const { signal } = job
  const answer = { upstream, poolId, model, streamed, usageWanted, admitted, signal }
  return await meterForeign(c, answer, deps)
}

/** Whether the pool shares out what its backends report. */
async function waitForTurn(
  c: AppContext,
  job: AdmittedJob,
  tools: TurnTools,
  untilMs: number,
): Promise<boolean> {
  const { deps } = tools
  const { estimate, weight } = job.admitted
  const id = c.get('trace').requestId
  const { tenantId } = c.get('caller')
  const turn = { id, tenantId, tokens: estimate.inputTokens + estimate.outputTokens }
  const waiter = { ...turn, weight, band: BANDS[job.band].index }
  const answer =
    takeTurnHere(job.pool, turn, tools) ??
    (await Promise.race([
      takeTurn(c, job.pool, { ...waiter, waitMs: Math.max(0, untilMs - deps.now()) }, tools),
      aborted(job.signal),
    ]))
  if (answer !== 'aborted' && answer.status === 'granted') return answer.managed
  await giveTurnBack(c, job.pool, id, tools)
  const reason = answer === 'aborted' ? 'timeout' : answer.reason
  await release(c, job.admitted, answer === 'aborted' ? 'client_gone' : reason, deps)
  throw turnError(reason, deps.random)
}

/** A key that was revoked while its request waited starts nothing any more. */
async function recheckKey(c: AppContext, job: AdmittedJob, tools: TurnTools): Promise<void> {
  const { deps } = tools
  const { tenantId, keyId } = c.get('caller')
  const status = await tenantObject(c.env, tenantId)
    .keyStatus(keyId, deps.now())
    .catch(() => 'unreachable' as const)
  if (status === 'valid' || (status === 'unreachable' && job.admitted.by === 'allowance')) return
  await giveTurnBack(c, job.pool, c.get('trace').requestId, tools)
  await release(c, job.admitted, 'key', deps)
  const refused = { status: 'refused', limits: [], binding: null, retryAfterMs: null } as const
  throw status === 'unreachable'
    ? turnError('timeout', deps.random)
    : refusalError({ ...refused, reason: 'key' }, job.model, deps.random)
}

function headersOf(job: AdmittedJob, waitedMs: number): Record<string, string> {
  return {
    [GRANTED_OUTPUT_TOKENS_HEADER]: String(job.admitted.grantedOutputTokens),
    [PRIORITY_HEADER]: String(BANDS[job.band].priority),
    ...(job.resumableSeconds === null ? {} : { [RESUMABLE_HEADER]: String(job.resumableSeconds) }),
    ...(job.streamed ? {} : { [DEADLINE_HEADER]: String(WHOLE_ANSWER_MS - waitedMs) }),
  }
}
