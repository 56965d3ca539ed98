export interface VerifiedKeysOptions {
  readonly keysMax: number
  readonly ttlMs: number
}

/**
 * Keys this isolate has lately seen its tenant's object accept, so that a busy key does not ask on
 * every request. Only acceptances are kept: a refusal must never outlive the making of a key. An
 * acceptance lapses after `ttlMs`, counted from before the question was asked, which bounds how
 * long a revoked key goes on working.
 */
export class VerifiedKeys {
  readonly #keysMax: number
  readonly #ttlMs: number
  /** Fingerprint of a key → when its acceptance lapses, in the order of insertion. */
  readonly #lapsesAtMs = new Map<string, number>()

  constructor(options: VerifiedKeysOptions) {
    this.#keysMax = options.keysMax
    this.#ttlMs = options.ttlMs
  }

  has(fingerprint: string, nowMs: number): boolean {
    const lapsesAtMs = this.#lapsesAtMs.get(fingerprint)
    if (lapsesAtMs === undefined) return false
    if (nowMs < lapsesAtMs) return true
    this.#lapsesAtMs.delete(fingerprint)
    return false
  }

  /** `askedAtMs` is when the question was put to the tenant's object, not when it was answered. */
  add(fingerprint: string, askedAtMs: number): void {
    this.#lapsesAtMs.delete(fingerprint)
    this.#lapsesAtMs.set(fingerprint, askedAtMs + this.#ttlMs)
    if (this.#lapsesAtMs.size <= this.#keysMax) return
    const [oldest] = this.#lapsesAtMs.keys()
    if (oldest !== undefined) this.#lapsesAtMs.delete(oldest)
  }

  get size(): number {
    return this.#lapsesAtMs.size
  }
}
