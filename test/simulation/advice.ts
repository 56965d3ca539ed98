import type { SettledRecord } from '../../edge/src/admission/prices.ts'
import type {
  Admission,
  AdmitRequest,
  Refusal,
  TenantAdmission,
} from '../../edge/src/admission/tenant-admission.ts'
import { TenantQueue } from '../../edge/src/admission/tenant-queue.ts'
import type { WaitEnd } from '../../edge/src/admission/tenant-queue.ts'
import type { TenantActor } from './tenant-actor.ts'

interface Advised {
  readonly request: AdmitRequest
  readonly answer: Refusal
  readonly nowMs: number
}

const NEVER_MS = 1e9

/** Whether a retry at the advised time, on the rows as they are, is not refused by a rate. */
export function adviceHolds(tenant: TenantActor, { request, answer, nowMs }: Advised): boolean {
  const atMs = nowMs + (answer.retryAfterMs ?? 0)
  const again = tenant.pretend((core) => core.admit(request, null, atMs))
  return again.status === 'admitted' || again.reason !== 'rate'
}

/**
 * The same, if by then all who wait have been served as they fit and have used what they were
 * estimated at: plays them through a queue of its own.
 */
export function adviceHoldsBehind(
  tenant: TenantActor,
  { request, answer, nowMs }: Advised,
): boolean {
  const dueMs = nowMs + (answer.retryAfterMs ?? 0)
  return tenant.pretend((core) => {
    const queue = new TenantQueue()
    let atMs = nowMs
    const settle = (ended: readonly WaitEnd[]): void => {
      for (const { answer: end } of ended) if (end.status === 'admitted') use(core, end, atMs)
    }
    for (const waiter of tenant.waiting) {
      const { answer: first, ended } = queue.arrive(
        core,
        { ...waiter, maxWaitMs: NEVER_MS },
        null,
        atMs,
      )
      settle(ended)
      if (first.status === 'admitted') use(core, first, atMs)
    }
    for (;;) {
      const nextMs = queue.nextTickMs()
      if (nextMs === null || nextMs > dueMs) break
      atMs = nextMs
      settle(queue.serve(core, atMs))
    }
    settle(queue.serve(core, dueMs))
    const { answer: again } = queue.arrive(core, { ...request, maxWaitMs: 0 }, null, dueMs)
    return again.status !== 'refused' || again.reason !== 'rate'
  })
}

function use(core: TenantAdmission, { reservation }: Admission, nowMs: number): void {
  const { id: requestId, scope, estimate, admittedAtMs: acceptedAtMs } = reservation
  const { inputTokens, uncachedInputTokens, outputTokens } = estimate
  const record: SettledRecord = {
    requestId,
    ...scope,
    promptTokens: inputTokens,
    cachedTokens: inputTokens - uncachedInputTokens,
    completionTokens: outputTokens,
    deliveredTokens: outputTokens,
    // Charged in full, and nothing is learnt of it: the estimates stay what they were.
    outcome: 'failed',
    acceptedAtMs,
  }
  core.settle(record, nowMs)
}
