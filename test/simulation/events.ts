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
  /** A backend has the request: it takes room from now on. */
  | { readonly kind: 'arrived'; readonly backendId: string; readonly requestId: string }
  /** A backend has let go of it, or has refused it. */
  | { readonly kind: 'freed'; readonly backendId: string; readonly requestId: string }
  /** What lies idle at a backend, looked at from time to time. */
  | { readonly kind: 'unused'; readonly backendId: string; readonly tokens: number }
  /** What the pool's object did or came to know, in the order in which it did. */
  | PoolEvent
  /** An isolate starts a request with room that it was lent. */
  | {
      readonly kind: 'turn_started'
      readonly leaseId: string
      readonly requestId: string
      readonly backendId: string
      readonly tokens: number
      readonly dispatchByMs: number
    }
  /** An isolate counts a request as over, or as one that it will not dispatch. */
  | { readonly kind: 'turn_over'; readonly requestId: string }
  /** An isolate says for the first time that a lease is over, and what still runs of it. */
  | { readonly kind: 'lease_told'; readonly leaseId: string; readonly running: readonly Tokens[] }
  | {
      readonly kind: 'turn'
      readonly requestId: string
      readonly deadlineMs: number
    }

interface Tokens {
  readonly id: string
  readonly tokens: number
}

export type PoolEvent =
  | { readonly kind: 'pool_restarted'; readonly quietUntilMs: number }
  | {
      readonly kind: 'reported'
      readonly backendId: string
      readonly freeTokens: number
      readonly draining: boolean
      readonly progress: readonly string[]
      /** When the backend wrote it. */
      readonly madeAtMs: number
    }
  | { readonly kind: 'out_of_reach'; readonly backendId: string }
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
  | { readonly kind: 'waits'; readonly waiter: Tokens & { readonly deadlineMs: number } }
  /** Waits no longer: served, overdue or gone. */
  | { readonly kind: 'waits_no_more'; readonly requestId: string }
  | {
      readonly kind: 'turns_lent'
      readonly leaseId: string
      /** Whose credits went down; null: nobody's. */
      readonly backendId: string | null
      readonly tokens: number
      readonly ttlMs: number
    }
  | { readonly kind: 'lease_closed'; readonly leaseId: string; readonly running: readonly Tokens[] }
  /** What is left of each backend by the pool's own account, after each call and tick. */
  | {
      readonly kind: 'pool_says'
      readonly credits: readonly { readonly backendId: string; readonly tokens: number }[]
      /** Whether those who wait were looked at in the end. */
      readonly served: boolean
    }

export interface LoggedEvent {
  readonly atMs: number
  readonly event: SimEvent
}
