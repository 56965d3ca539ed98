import type { Cost } from '../../edge/src/admission/cost.ts'
import type { SettledRecord } from '../../edge/src/admission/prices.ts'
import type { Scope } from '../../edge/src/admission/limits.ts'

/** What truly happened, by the world's clock, whoever came to know of it. The auditor's only source. */
export type SimEvent =
  | {
      readonly kind: 'admitted'
      readonly tenantId: string
      readonly requestId: string
      readonly scope: Scope
      readonly cost: Cost
      /** The lease it was taken from; null: by the object itself. */
      readonly leaseId: string | null
    }
  | {
      readonly kind: 'lent'
      readonly tenantId: string
      readonly leaseId: string
      readonly scope: Scope
      readonly cost: Cost
    }
  /** Waits for room under its tenant's own limits. */
  | {
      readonly kind: 'queued'
      readonly tenantId: string
      readonly requestId: string
      readonly keyId: string
    }
  /** Waits no longer, by its own doing or (null) since the object has died. */
  | { readonly kind: 'unqueued'; readonly tenantId: string; readonly requestId: string | null }
  | { readonly kind: 'revoked'; readonly tenantId: string; readonly keyId: string }
  | {
      readonly kind: 'dispatched'
      readonly tenantId: string
      readonly requestId: string
      readonly keyId: string
    }
  | { readonly kind: 'delivered'; readonly requestId: string; readonly tokens: number }
  | { readonly kind: 'recorded'; readonly tenantId: string; readonly record: SettledRecord }
  | { readonly kind: 'applied'; readonly tenantId: string; readonly requestId: string }
  | { readonly kind: 'released'; readonly tenantId: string; readonly requestId: string }
  | {
      readonly kind: 'reported'
      readonly backendId: string
      readonly freeTokens: number
      /** When the backend wrote it. */
      readonly madeAtMs: number
    }
  | { readonly kind: 'arrived'; readonly requestId: string }
  | { readonly kind: 'pool_restarted' }
  | {
      readonly kind: 'granted'
      readonly backendId: string
      readonly requestId: string
      readonly tokens: number
      readonly probe: boolean
      readonly dispatchByMs: number
    }
  /** What a grant was for is over, or was never begun. */
  | { readonly kind: 'grant_ended'; readonly requestId: string }
  | {
      readonly kind: 'turn'
      readonly requestId: string
      readonly deadlineMs: number
    }

export interface LoggedEvent {
  readonly atMs: number
  readonly event: SimEvent
}
