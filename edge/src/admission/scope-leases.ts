import { assert } from './assert.ts'
import { addCost, costFits, NO_COST, subtractCost } from './cost.ts'
import type { Cost } from './cost.ts'
import { estimateCost } from './estimator.ts'
import type { Demand } from './lease-size.ts'
import { planMoney } from './money.ts'
import { DEFAULT_POLICY } from './policy.ts'
import type { AdmissionPolicy } from './policy.ts'
import type { AdmitRequest, LeaseAsk, LeaseReport, Spend } from './tenant-admission.ts'
import type { Lease } from './tenant-store.ts'

export interface LeaseSpend extends Spend {
  readonly lease: Lease
  /**
   * When the key was last known to be good: when the lease was asked for, not when it was spent. A
   * dispatch later than `leaseTtlMs` after it has to ask again.
   */
  readonly verifiedAtMs: number
}

interface TimedSpend {
  readonly spend: Omit<Spend, 'agoMs'>
  readonly atMs: number
}

interface HeldLease {
  readonly lease: Lease
  /** By the isolate's clock, before it asked: the end is earlier than in the object's own idea. */
  readonly askedAtMs: number
  readonly expiresAtMs: number
  left: Cost
  leftPico: number
  readonly spends: TimedSpend[]
  /** What the object has confirmed of `spends`. */
  acknowledged: number
  closing: boolean
}

/** Reports that are not taken for this long are given up: records will settle what they held. */
const REPORT_FOR_MS = 60_000
const CLOSING_MAX = 16
/** A lease lives for two refills or so: an answer later than that many others is void anyway. */
const RECEIVED_KEPT = 16

/**
 * What one isolate has of one tenant's limits under one scope. `spend` is the hot path: a
 * subtraction, with nothing to wait for. Whatever it says no to goes to the tenant object.
 */
export class ScopeLeases {
  readonly #isolateId: string
  readonly #policy: AdmissionPolicy
  #current: HeldLease | null = null
  #closing: HeldLease[] = []
  #received: string[] = []
  #lastLeaseAtMs: number | null = null
  #demand: Demand = NO_DEMAND
  #demandBefore: Demand = NO_DEMAND
  #demandFromMs = 0

  constructor(isolateId: string, policy: AdmissionPolicy = DEFAULT_POLICY) {
    this.#isolateId = isolateId
    this.#policy = policy
  }

  /** Admits under the lease in hand; null when there is none, or too little is left of it. */
  spend(request: Omit<AdmitRequest, 'scope'>, nowMs: number): LeaseSpend | null {
    const held = this.#usable(nowMs)
    if (held === null) return null
    const { lease } = held
    const estimate = estimateCost(lease.estimates, request)
    const wanted = { ...request, estimate, prices: lease.price, billing: lease.billing }
    const money = planMoney(wanted, BigInt(held.leftPico))
    // A lease that pays for less than was asked must not cut the answer short: the balance may not.
    const whole = money !== null && money.grantedOutputTokens === request.outputTokensMax
    if (!whole || !costFits(estimate, held.left)) return null
    const { requestId, bodyBytes, outputTokensMax } = request
    const spend = { requestId, bodyBytes, outputTokensMax, estimate, ...money }
    held.left = subtractCost(held.left, estimate)
    held.leftPico -= money.holdPico
    held.spends.push({ spend, atMs: nowMs })
    this.count(estimate, money.holdPico, nowMs)
    return { ...spend, agoMs: 0, lease, verifiedAtMs: held.askedAtMs }
  }

  /** Counts a request that the object admitted itself: the next lease's size follows the demand. */
  count(cost: Cost, holdPico: number, nowMs: number): void {
    this.#turnDemand(nowMs)
    const { cost: before, pico } = this.#demand
    this.#demand = { cost: addCost(before, cost), pico: pico + holdPico }
  }

  /** What to ask the object for; `leaseId` is new with every call that is not a repeat. */
  ask(leaseId: string, nowMs: number): LeaseAsk {
    this.#turnDemand(nowMs)
    const last = this.#lastLeaseAtMs
    return {
      leaseId,
      isolateId: this.#isolateId,
      demand: larger(this.#demand, this.#demandBefore),
      sinceLastMs: last === null ? null : nowMs - last,
    }
  }

  /**
   * A lease has come; `askedAtMs` is when it was asked for. The one before it is given back. An
   * answer that comes twice must not make a lease twice.
   */
  receive(lease: Lease, askedAtMs: number): void {
    if (this.#received.includes(lease.leaseId)) return
    this.#received = [...this.#received, lease.leaseId].slice(-RECEIVED_KEPT)
    this.#retire()
    this.#lastLeaseAtMs = askedAtMs
    this.#current = {
      lease,
      askedAtMs,
      expiresAtMs: askedAtMs + lease.ttlMs,
      left: lease.cost,
      leftPico: lease.pico,
      spends: [],
      acknowledged: 0,
      closing: false,
    }
  }

  /** Key epoch of the lease in hand, null without one. */
  keyEpoch(nowMs: number): number | null {
    return this.#usable(nowMs)?.lease.keyEpoch ?? null
  }

  /** Whether it is time to ask for the next lease, before this one runs out. */
  wantsRefill(nowMs: number): boolean {
    const last = this.#lastLeaseAtMs
    return last === null || nowMs - last >= this.#policy.leaseRefillMs
  }

  /** Everything the object has not confirmed; send, then tell `acknowledge` its answers. */
  reports(nowMs: number): readonly LeaseReport[] {
    this.#usable(nowMs)
    this.#closing = this.#closing.filter(({ expiresAtMs }) => nowMs - expiresAtMs < REPORT_FOR_MS)
    const held = this.#current === null ? this.#closing : [...this.#closing, this.#current]
    return held
      .filter(({ closing, spends, acknowledged }) => closing || spends.length > acknowledged)
      .map(({ lease, spends, acknowledged, closing }) => ({
        lease: { leaseId: lease.leaseId, scope: lease.scope, price: lease.price },
        first: acknowledged,
        spends: spends
          .slice(acknowledged)
          .map(({ spend, atMs }) => ({ ...spend, agoMs: nowMs - atMs })),
        closes: closing,
      }))
  }

  /** The object has counted this many requests of a lease. */
  acknowledge(leaseId: string, counted: number): void {
    const all = this.#current === null ? this.#closing : [...this.#closing, this.#current]
    const held = all.find(({ lease }) => lease.leaseId === leaseId)
    if (held === undefined) return
    assert(counted <= held.spends.length, 'nothing is confirmed that was not reported')
    held.acknowledged = Math.max(held.acknowledged, counted)
    if (held.closing && held.acknowledged === held.spends.length) {
      this.#closing = this.#closing.filter((other) => other !== held)
    }
  }

  /** Gives back what is in hand with the next report: the isolate has gone idle. */
  close(): void {
    this.#retire()
  }

  #usable(nowMs: number): HeldLease | null {
    if (this.#current !== null && nowMs >= this.#current.expiresAtMs) this.#retire()
    return this.#current
  }

  #retire(): void {
    if (this.#current === null) return
    this.#current.closing = true
    this.#closing = [...this.#closing, this.#current].slice(-CLOSING_MAX)
    this.#current = null
  }

  #turnDemand(nowMs: number): void {
    const span = nowMs - this.#demandFromMs
    if (span < this.#policy.leaseRefillMs) return
    this.#demandBefore = span < 2 * this.#policy.leaseRefillMs ? this.#demand : NO_DEMAND
    this.#demand = NO_DEMAND
    this.#demandFromMs = nowMs
  }
}

const NO_DEMAND: Demand = { cost: NO_COST, pico: 0 }

function larger(a: Demand, b: Demand): Demand {
  return a.cost.requests >= b.cost.requests ? a : b
}
