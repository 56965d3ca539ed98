import { BoundedMap } from '../bounded-map.ts'

export interface VerifiedKeysOptions {
  readonly keysMax: number
  readonly ttlMs: number
}

interface Acceptance<T> {
  readonly caller: T
  readonly lapsesAtMs: number
}

/**
 * Keys this isolate has lately seen accepted, with whose they are, so that a busy key does not ask
 * on every request. Only acceptances are kept: a refusal must never outlive the making of a key. An
 * acceptance lapses after `ttlMs`, counted from before the question was asked, which bounds how
 * long a revoked key goes on working.
 */
export class VerifiedKeys<T> {
  readonly #ttlMs: number
  /**
   * By the key itself: hashing it costs more than all the rest of a busy key's request. So that none
   * stays in memory for long, whatever has lapsed goes with the next one that comes.
   */
  readonly #acceptances: BoundedMap<string, Acceptance<T>>

  constructor(options: VerifiedKeysOptions) {
    this.#acceptances = new BoundedMap(options.keysMax)
    this.#ttlMs = options.ttlMs
  }

  get(key: string, nowMs: number): T | null {
    const acceptance = this.#acceptances.get(key)
    if (acceptance === undefined) return null
    if (nowMs < acceptance.lapsesAtMs) return acceptance.caller
    this.#acceptances.delete(key)
    return null
  }

  /**
   * `askedAtMs` is when the question was put, not when it was answered; `untilMs`, where the
   * credential itself ends, may lapse it sooner.
   */
  add(
    key: string,
    caller: T,
    { askedAtMs, untilMs }: { readonly askedAtMs: number; readonly untilMs: number | null },
  ): void {
    this.#forgetLapsed(askedAtMs)
    const lapsesAtMs = Math.min(askedAtMs + this.#ttlMs, untilMs ?? Number.POSITIVE_INFINITY)
    this.#acceptances.set(key, { caller, lapsesAtMs })
  }

  get size(): number {
    return this.#acceptances.size
  }

  /** From the oldest on, up to the first that still holds. */
  #forgetLapsed(nowMs: number): void {
    for (const [key, { lapsesAtMs }] of this.#acceptances) {
      if (nowMs < lapsesAtMs) return
      this.#acceptances.delete(key)
    }
  }
}
