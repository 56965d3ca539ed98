/** A mistake to plant: a piece of the core's text, what to write instead, and what it makes wrong. */
export interface Mutation {
  readonly name: string
  readonly file: string
  readonly find: string
  readonly replace: string
}

/** Each of them is a mistake that someone might make; every one has to be caught. */
export const MUTATIONS: readonly Mutation[] = [
  {
    name: 'the burst is twice what it says',
    file: 'gcra.ts',
    find: 'Math.max(0, rate.burst - cost)',
    replace: 'Math.max(0, 2 * rate.burst - cost)',
  },
  {
    name: 'a bucket drains twice as fast',
    file: 'gcra.ts',
    find: '* rate.perMinute\n',
    replace: '* rate.perMinute * 2\n',
  },
  {
    name: 'a bucket cannot be in debt',
    file: 'gcra.ts',
    find: 'Math.max(0, owedAt(bucket, rate, nowMs) + amount * UNITS)',
    replace:
      'Math.min(rate.burst * UNITS, Math.max(0, owedAt(bucket, rate, nowMs) + amount * UNITS))',
  },
  {
    name: 'the advised time is that of the limit which is first to make room',
    file: 'tenant-admission.ts',
    find: 'b.waitMs - a.waitMs',
    replace: 'a.waitMs - b.waitMs',
  },
  {
    name: 'one limit that fits is enough',
    file: 'tenant-admission.ts',
    find: 'if (short.length > 0) return',
    replace: 'if (short.length === states.length) return',
  },
  {
    name: 'a lease is spent without subtracting',
    file: 'scope-leases.ts',
    find: '    held.left = subtractCost(held.left, estimate)\n',
    replace: '',
  },
  {
    name: 'an isolate does not look at the clock',
    file: 'scope-leases.ts',
    find: 'nowMs >= this.#current.expiresAtMs',
    replace: 'nowMs < 0',
  },
  {
    name: 'a lease counts from its arrival',
    file: 'scope-leases.ts',
    find: 'expiresAtMs: askedAtMs + lease.ttlMs',
    replace: 'expiresAtMs: askedAtMs + lease.ttlMs + 3000',
  },
  {
    name: 'an answer that comes twice is a lease twice',
    file: 'scope-leases.ts',
    find: '    if (this.#received.includes(lease.leaseId)) return\n',
    replace: '',
  },
  {
    name: 'an expired lease does not give its capacity back',
    file: 'tenant-admission.ts',
    find: '      this.#returnCapacity(row, nowMs)\n      const dueAtMs',
    replace: '      const dueAtMs',
  },
  {
    name: 'a lease that expired gives its capacity back twice',
    file: 'tenant-admission.ts',
    find: "if (row.state === 'open') this.#returnCapacity",
    replace: 'this.#returnCapacity',
  },
  {
    name: 'repeated reports count again',
    file: 'tenant-admission.ts',
    find: 'spends.slice(counted - first)',
    replace: 'spends',
  },
  {
    name: 'what was spent of an expired lease is not charged again',
    file: 'tenant-admission.ts',
    find: '    if (!fromLease) this.#capacity.reserve(limitIds, spend.estimate, nowMs)\n',
    replace: '',
  },
  {
    name: 'a late report opens a finished request again',
    file: 'tenant-admission.ts',
    find: 'const known = over ||',
    replace: 'const known =',
  },
  {
    name: 'a record is applied as often as it comes',
    file: 'ledger.ts',
    find: 'if (existing !== undefined) {',
    replace: 'if (existing !== undefined && existing.id === "") {',
  },
  {
    name: 'a settled request is not recognised',
    file: 'tenant-admission.ts',
    find: 'if (terminal !== undefined) return compareTerminal(terminal, record)',
    replace: "if (terminal?.kind === 'void') return compareTerminal(terminal, record)",
  },
  {
    name: 'an unknown record is dropped',
    file: 'tenant-admission.ts',
    find: '    this.#store.parked.put({ id: record.requestId, record, dueAtMs })\n',
    replace: '',
  },
  {
    name: 'a client that left pays for what it did not get',
    file: 'prices.ts',
    find: 'outputTokens: record.deliveredTokens',
    replace: 'outputTokens: record.completionTokens',
  },
  {
    name: 'our failures are billed',
    file: 'prices.ts',
    find: "  if (outcome === 'failed') return NOTHING_BILLED\n",
    replace: '',
  },
  {
    name: 'cached tokens cost as much as others',
    file: 'prices.ts',
    find: 'usage.cachedTokens * prices.cacheHitPico',
    replace: 'usage.cachedTokens * prices.cacheMissPico',
  },
  {
    name: 'settling leaves the estimate charged',
    file: 'tenant-admission.ts',
    find: 'this.#capacity.move(row.limitIds, change, nowMs)\n    this.#capacity.freeSlots(row.id)',
    replace: 'this.#capacity.freeSlots(row.id)',
  },
  {
    name: 'settling gives back what true-ups took',
    file: 'tenant-admission.ts',
    find: 'subtractCost(used, row.charged)',
    replace: 'subtractCost(used, row.estimate)',
  },
  {
    name: 'settling keeps holding the rest of the answer',
    file: 'tenant-admission.ts',
    find: 'heldOutputTokens: -heldOutput(row.estimate, row.charged)',
    replace: 'heldOutputTokens: 0',
  },
  {
    name: 'settling keeps the place of concurrency',
    file: 'tenant-admission.ts',
    find: '    this.#capacity.freeSlots(row.id)\n    this.#addHeld(-row.holdPico)',
    replace: '    this.#addHeld(-row.holdPico)',
  },
  {
    name: 'settling keeps the hold',
    file: 'tenant-admission.ts',
    find: '    this.#addHeld(-row.holdPico)\n    this.#store.reservations.delete',
    replace: '    this.#store.reservations.delete',
  },
  {
    name: 'a true-up is charged and not remembered',
    file: 'tenant-admission.ts',
    find: '{ ...row, charged, promptKnown, holdPico }',
    replace: '{ ...row, promptKnown, holdPico }',
  },
  {
    name: 'a hold leaves out the answer',
    file: 'money.ts',
    find: 'holdPico: worstInput + granted * prices.outputPico',
    replace: 'holdPico: worstInput',
  },
  {
    name: 'holds are not taken from what is available',
    file: 'tenant-admission.ts',
    find: 'return this.balancePico() + credit - BigInt(this.#totals().heldPico)',
    replace: 'return this.balancePico() + credit',
  },
  {
    name: 'a reservation under way is released',
    file: 'tenant-admission.ts',
    find: "      case 'under_way':\n        this.heartbeat([requestId], nowMs)\n",
    replace: "      case 'under_way':\n        this.release(requestId, nowMs)\n",
  },
  {
    name: 'the backend is asked too early',
    file: 'policy.ts',
    find: 'askAfterMs: 120_000',
    replace: 'askAfterMs: 300',
  },
  {
    name: 'a lease outlives a revocation',
    file: 'policy.ts',
    find: 'leaseTtlMs: 1500',
    replace: 'leaseTtlMs: 3500',
  },
  {
    name: 'grants are not counted',
    file: 'pool-admission.ts',
    find: 'grants.set(grant.requestId, grant)',
    replace: 'void grants',
  },
  {
    name: 'a report clears grants it cannot have seen',
    file: 'pool-admission.ts',
    find: 'known.grants.delete(requestId)',
    replace: 'known.grants.delete(requestId)\n      known.grants.clear()',
  },
  {
    name: 'an older report replaces a newer one',
    file: 'pool-admission.ts',
    find: '      if (report.seq <= known.report.seq) return false\n',
    replace: '',
  },
  {
    name: 'a backend out of reach is given more',
    file: 'pool-admission.ts',
    find: '{ ...known.report, draining: true }',
    replace: '{ ...known.report, freeCacheTokens: known.report.cacheTokensMax }',
  },
  {
    name: 'a request asked for twice is granted twice',
    file: 'pool-admission.ts',
    find: "    if (existing !== null) return { status: 'granted', grant: existing }\n",
    replace: '',
  },
  {
    name: 'a new pool object grants at once',
    file: 'pool-admission.ts',
    find: '    if (nowMs < this.#quietUntilMs) return null\n',
    replace: '',
  },
  {
    name: 'a waiter is served after its deadline',
    file: 'fair-queue.ts',
    find: 'waiter.deadlineMs <= nowMs)',
    replace: 'waiter.deadlineMs <= nowMs - 1500)',
  },
  {
    name: 'who comes later passes those who wait',
    file: 'tenant-queue.ts',
    find: 'gate.admit(request, lent, nowMs, this.#line)',
    replace: 'gate.admit(request, lent, nowMs, NOBODY_AHEAD)',
  },
  {
    name: 'those who wait pass one another',
    file: 'tenant-queue.ts',
    find: '!overdue && before.isWaitedFor(limits)',
    replace: '!overdue && before.isWaitedFor([])',
  },
  {
    name: 'the last to come is the first to be served',
    file: 'tenant-queue.ts',
    find: '[...this.#waiters, waiter]',
    replace: '[waiter, ...this.#waiters]',
  },
  {
    name: 'leases are lent while others wait',
    file: 'tenant-queue.ts',
    find: 'this.size === 0 || !this.#line',
    replace: 'this.size >= 0 || !this.#line',
  },
  {
    name: 'nobody looks at deadlines',
    file: 'tenant-queue.ts',
    find: 'Math.min(this.#tryAgainMs, ...deadlines)',
    replace: 'Math.max(this.#tryAgainMs, ...deadlines) + 2000',
  },
  {
    name: 'whoever has waited is let in without room',
    file: 'tenant-admission.ts',
    find: 'waitMs > 0 || ahead.limitIds',
    replace: '(waitMs > 0 && ask !== null) || ahead.limitIds',
  },
  {
    name: 'output of a limit on all tokens is not held',
    file: 'tenant-capacity.ts',
    find: "new Set(['outputTokens', 'tokens'])",
    replace: "new Set(['outputTokens'])",
  },
  {
    name: 'weights do not count',
    file: 'fair-queue.ts',
    find: 'waiter.tokens / waiter.weight',
    replace: 'waiter.tokens',
  },
  {
    name: 'requests count instead of tokens',
    file: 'fair-queue.ts',
    find: 'start + waiter.tokens / waiter.weight',
    replace: 'start + 1 / waiter.weight',
  },
  {
    name: 'the virtual clock stands still',
    file: 'fair-queue.ts',
    find: '    band.clock = Math.max(band.clock, entry.start)\n',
    replace: '',
  },
  {
    name: 'lower bands starve',
    file: 'fair-queue.ts',
    find: 'return mostOwed ?? heads[0] ?? null',
    replace: 'return heads[0] ?? mostOwed ?? null',
  },
  {
    name: 'lower bands take more than their floor',
    file: 'fair-queue.ts',
    find: 'other.owedTokens += this.#floor(index) * tokens',
    replace: 'other.owedTokens += 2 * this.#floor(index) * tokens',
  },
  {
    name: 'one tenant may fill the queue',
    file: 'fair-queue.ts',
    find: 'if (crowded && (own.waiters > 0 ||',
    replace: 'if (crowded && (',
  },
]
