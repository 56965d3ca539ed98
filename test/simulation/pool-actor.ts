import { PoolAdmission } from '../../edge/src/admission/pool-admission.ts'
import type { Capacity, Grant, PoolPolicy } from '../../edge/src/admission/pool-admission.ts'
import type { Waiter } from '../../edge/src/admission/fair-queue.ts'
import type { SimEvent } from './events.ts'
import type { Host, World } from './world.ts'

export type PoolReply =
  | { readonly status: 'granted'; readonly grant: Grant }
  | { readonly status: 'refused'; readonly reason: string }

/** A pool object: its queue is open connections and dies with it; it remembers when it last granted. */
export class PoolActor {
  readonly host: Host = { awakeFromMs: 0 }
  admission: PoolAdmission
  readonly #world: World
  readonly #policy: PoolPolicy
  readonly #log: (event: SimEvent) => void
  #callers = new Map<string, { waiter: Waiter; reply: (reply: PoolReply) => void }>()
  /** What survives, to the second. */
  #lastGrantSecond = 0

  constructor(world: World, policy: PoolPolicy, log: (event: SimEvent) => void) {
    this.#world = world
    this.#policy = policy
    this.#log = log
    this.admission = new PoolAdmission(policy)
  }

  report(report: Capacity, madeAtMs: number): void {
    if (!this.admission.report(report, this.#world.nowMs)) return
    const freeTokens = Math.max(0, report.freeCacheTokens - report.waitingTokens)
    this.#log({ kind: 'reported', backendId: report.backendId, freeTokens, madeAtMs })
    this.#dispatch()
  }

  /** A repeated call answers where the first one waits. */
  request(waiter: Waiter, reply: (reply: PoolReply) => void): void {
    if (this.#callers.has(waiter.id)) return
    const answer = this.admission.request(waiter, this.#world.nowMs)
    if (answer.status === 'waiting') this.#callers.set(waiter.id, { waiter, reply })
    else if (answer.status === 'granted') this.#answerGrant(waiter, answer.grant, reply)
    else reply(answer)
  }

  cancel(requestId: string): void {
    this.admission.cancel(requestId)
    this.#callers.delete(requestId)
    this.#dispatch()
  }

  finish(requestId: string): void {
    this.admission.finish(requestId)
    this.#log({ kind: 'grant_ended', requestId })
    this.#dispatch()
  }

  tick(): void {
    for (const waiter of this.admission.expire(this.#world.nowMs)) {
      const caller = this.#callers.get(waiter.id)
      this.#callers.delete(waiter.id)
      this.#log({ kind: 'turn', requestId: waiter.id, deadlineMs: waiter.deadlineMs })
      caller?.reply({ status: 'refused', reason: 'deadline' })
    }
    this.#dispatch()
  }

  crash(): void {
    const quietUntilMs = (this.#lastGrantSecond + 1) * 1000 + this.#policy.grantTtlMs
    this.admission = new PoolAdmission(this.#policy, quietUntilMs)
    this.#log({ kind: 'pool_restarted' })
    const callers = [...this.#callers.values()]
    this.#callers = new Map()
    for (const { reply } of callers) reply({ status: 'refused', reason: 'broken' })
  }

  #dispatch(): void {
    for (const grant of this.admission.dispatch(this.#world.nowMs)) {
      const caller = this.#callers.get(grant.requestId)
      if (caller === undefined) continue
      this.#callers.delete(grant.requestId)
      this.#answerGrant(caller.waiter, grant, caller.reply)
    }
  }

  #answerGrant(waiter: Waiter, grant: Grant, reply: (reply: PoolReply) => void): void {
    const { requestId, backendId, tokens, probe, dispatchByMs } = grant
    this.#lastGrantSecond = Math.floor(this.#world.nowMs / 1000)
    this.#log({ kind: 'turn', requestId, deadlineMs: waiter.deadlineMs })
    this.#log({ kind: 'granted', requestId, backendId, tokens, probe, dispatchByMs })
    reply({ status: 'granted', grant })
  }
}
