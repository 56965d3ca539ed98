import type { RequestProgress } from '#protocol/capacity-report.ts'
import { TRUE_UP_TOKENS } from '../../admission/policy.ts'

interface Running {
  readonly tenantId: string
  seenAtMs: number
  /** What its tenant was told last: true-up steps of output, and whether the prompt was known. */
  toldSteps: number
  toldPrompt: boolean
}

/** A request that neither ended nor showed in a report for this long is not coming back. */
const FORGET_MS = 15 * 60_000
const REQUESTS_MAX = 20_000

/** Which tenant a reported request belongs to, and what that tenant has not been told of it yet. */
export class RunningRequests {
  readonly #requests = new Map<string, Running>()

  add(requestId: string, tenantId: string, nowMs: number): void {
    this.#requests.set(requestId, { tenantId, seenAtMs: nowMs, toldSteps: 0, toldPrompt: false })
    if (this.#requests.size > REQUESTS_MAX) this.#forget(nowMs)
  }

  delete(requestId: string): void {
    this.#requests.delete(requestId)
  }

  /** By tenant, the progress that makes a difference to what it is charged. */
  news(progress: readonly RequestProgress[], nowMs: number): Map<string, RequestProgress[]> {
    const byTenant = new Map<string, RequestProgress[]>()
    for (const update of progress) {
      const running = this.#requests.get(update.requestId)
      if (running === undefined) continue
      running.seenAtMs = nowMs
      const steps = Math.floor(update.completionTokens / TRUE_UP_TOKENS)
      const prompt = update.promptTokens > 0
      if (steps <= running.toldSteps && prompt === running.toldPrompt) continue
      running.toldSteps = steps
      running.toldPrompt = prompt
      const updates = byTenant.get(running.tenantId) ?? []
      updates.push(update)
      byTenant.set(running.tenantId, updates)
    }
    return byTenant
  }

  #forget(nowMs: number): void {
    for (const [id, { seenAtMs }] of this.#requests) {
      if (nowMs - seenAtMs > FORGET_MS) this.#requests.delete(id)
    }
    // All of them young: the oldest go, and are trued up by their records.
    for (const id of this.#requests.keys()) {
      if (this.#requests.size <= REQUESTS_MAX) return
      this.#requests.delete(id)
    }
  }
}
