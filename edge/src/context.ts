import type { Context } from 'hono'
import type { RandomBytes } from './bytes.ts'
import type { Env, Settings } from './env.ts'
import type { Access } from './keys/access.ts'
import type { RequestTrace } from './request-trace.ts'

/** Everything the edge takes from outside itself. */
export interface AppDeps {
  readonly fetch: (url: string, init: RequestInit) => Promise<Response>
  /** Unix milliseconds. */
  readonly now: () => number
  /** Evenly in [0, 1); spreads retries and picks between equal pools, never makes a secret. */
  readonly random: () => number
  /** From a secure generator: ids and keys are made of it. */
  readonly randomBytes: RandomBytes
  /** Takes one JSON line. */
  readonly log: (line: string) => void
}

/** Whose key a request carries. */
export interface Caller {
  readonly tenantId: string
  readonly keyId: string
  readonly access: Access
}

export interface AppEnv {
  Bindings: Env
  Variables: {
    trace: RequestTrace
    settings: Settings
    /** Set behind `authenticate`. */
    caller: Caller
  }
}

export type AppContext = Context<AppEnv>
