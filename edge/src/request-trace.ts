import { NO_LIMITS } from './rate-limit-headers.ts'
import type { LimitView } from './rate-limit-headers.ts'
import type { BodyEnd } from './upstream/pump.ts'

/**
 * What one request's log line will say. Collected as the request goes along, written once. There
 * is no place in it for keys, prompts, bodies or tokens.
 */
export class RequestTrace {
  readonly requestId: string
  readonly startedAtMs: number
  tenantId: string | null = null
  keyId: string | null = null
  /** A model we serve; a name the client made up never gets here. */
  model: string | null = null
  /** Set when the body is still being passed on after the handler has answered: the line is then
   * written at the body's end, not at the handler's. */
  streaming = false
  /** How it was let in: by a lease in hand, by its tenant's object, or while that was down. */
  admittedBy: 'lease' | 'object' | 'allowance' | null = null
  /** Where the limits stood when the request was decided on; none for other routes. */
  limits: readonly LimitView[] = NO_LIMITS
  readonly #phases: { readonly name: string; readonly durationMs: number }[] = []

  constructor(requestId: string, startedAtMs: number) {
    this.requestId = requestId
    this.startedAtMs = startedAtMs
  }

  addPhase(name: 'auth' | 'limit' | 'admit' | 'queue' | 'backend', durationMs: number): void {
    this.#phases.push({ name, durationMs })
  }

  /** Value of the `server-timing` header: each phase, then everything until now. */
  serverTiming(nowMs: number): string {
    return [...this.#phases, { name: 'total', durationMs: nowMs - this.startedAtMs }]
      .map(({ name, durationMs }) => `${name};dur=${durationMs}`)
      .join(', ')
  }

  /** The log line. `route` is the pattern that matched, since paths may hold anything. */
  toLine(end: {
    readonly method: string
    readonly route: string
    readonly status: number
    readonly nowMs: number
    readonly bodyEnd?: BodyEnd
  }): string {
    return JSON.stringify({
      event: 'request',
      request_id: this.requestId,
      method: end.method,
      route: end.route,
      status: end.status,
      duration_ms: end.nowMs - this.startedAtMs,
      ...(this.tenantId === null ? {} : { tenant_id: this.tenantId }),
      ...(this.keyId === null ? {} : { key_id: this.keyId }),
      ...(this.model === null ? {} : { model: this.model }),
      ...(this.admittedBy === null ? {} : { admitted_by: this.admittedBy }),
      ...(end.bodyEnd === undefined ? {} : { body: end.bodyEnd }),
    })
  }
}
