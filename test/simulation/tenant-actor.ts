import { memoryTenantStore } from '../../edge/src/admission/memory-store.ts'
import type { AdmissionPolicy } from '../../edge/src/admission/policy.ts'
import { TenantAdmission } from '../../edge/src/admission/tenant-admission.ts'
import type { TenantTerms } from '../../edge/src/admission/tenant-admission.ts'
import type { Host, World } from './world.ts'

class CrashError extends Error {}

/** A call as it was made, for replaying: what ran on the core, and whether it was committed. */
export interface RecordedCall {
  readonly atMs: number
  readonly run: (core: TenantAdmission) => unknown
  readonly result: string
}

export type CallResult<Value> =
  | { readonly ran: true; readonly value: Value; readonly answered: boolean }
  | { readonly ran: false }

/**
 * A tenant object: every call is one transaction on rows that survive. It may die before one, at any
 * write of one (which undoes it), or after it and before the answer; what it had in memory is gone.
 */
export class TenantActor {
  readonly host: Host = { awakeFromMs: 0 }
  readonly tenantId: string
  readonly terms: TenantTerms
  readonly store = memoryTenantStore(() => this.#beforeWrite())
  /** Keys live in the same database; only what admission needs of them is here. */
  readonly revokedKeys = new Set<string>()
  readonly calls: RecordedCall[] = []
  crashes = 0
  readonly #world: World
  readonly #policy: AdmissionPolicy
  readonly #onCommit: (actor: TenantActor) => void
  #writesUntilCrash = Infinity

  constructor(
    world: World,
    options: {
      readonly tenantId: string
      readonly terms: TenantTerms
      readonly policy: AdmissionPolicy
      readonly onCommit: (actor: TenantActor) => void
    },
  ) {
    this.#world = world
    this.tenantId = options.tenantId
    this.terms = options.terms
    this.#policy = options.policy
    this.#onCommit = options.onCommit
  }

  call<Value>(run: (core: TenantAdmission) => Value): CallResult<Value> {
    const { random, faults } = this.#world
    const crash = random.chance(faults.crash) ? random.pick(CRASH_POINTS) : null
    if (crash === 'before') return this.#die()
    if (crash === 'within') this.#writesUntilCrash = random.between(0, 12)
    try {
      const value = run(new TenantAdmission(this.store, this.terms, this.#policy))
      this.store.commit()
      this.calls.push({ atMs: this.#world.nowMs, run, result: asText(value) })
      this.#onCommit(this)
      if (crash === 'after') this.#die()
      return { ran: true, value, answered: crash !== 'after' }
    } catch (error) {
      if (!(error instanceof CrashError)) throw error
      this.store.rollback()
      return this.#die()
    } finally {
      this.#writesUntilCrash = Infinity
    }
  }

  /** What `run` would say, without a trace of it. */
  pretend<Value>(run: (core: TenantAdmission) => Value): Value {
    const value = run(new TenantAdmission(this.store, this.terms, this.#policy))
    this.store.rollback()
    return value
  }

  /** Runs every committed call again on an empty store; the first whose answer differs, or null. */
  replay(): { readonly firstDifference: number | null; readonly journal: string } {
    const store = memoryTenantStore()
    const core = new TenantAdmission(store, this.terms, this.#policy)
    const different = this.calls.findIndex(({ run, result }) => asText(run(core)) !== result)
    return {
      firstDifference: different < 0 ? null : different,
      journal: asText(store.postings),
    }
  }

  #die(): { readonly ran: false } {
    this.crashes++
    this.host.awakeFromMs = this.#world.nowMs + this.#world.random.between(10, 800)
    return { ran: false }
  }

  #beforeWrite(): void {
    if (this.#writesUntilCrash-- <= 0) throw new CrashError()
  }
}

const CRASH_POINTS = ['before', 'within', 'after'] as const

export function asText(value: unknown): string {
  return JSON.stringify(value, (_key, part: unknown) =>
    typeof part === 'bigint' ? `${part}n` : part,
  )
}
