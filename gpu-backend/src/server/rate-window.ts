import { strict as assert } from 'node:assert'

/** Tokens so far, ever. */
interface TokenTotals {
  readonly prompt: number
  readonly generated: number
}

/** Tokens a second. */
interface TokenRates {
  readonly prefill: number
  readonly decode: number
}

interface Sample extends TokenTotals {
  readonly atMs: number
}

/** Rates over the last few seconds, from totals that are looked at now and then. */
export class RateWindow {
  readonly #spanMs: number
  #samples: Sample[] = []

  constructor(spanMs: number) {
    assert(spanMs > 0, 'a rate needs time')
    this.#spanMs = spanMs
  }

  /** Takes the totals of this moment in and gives the rates up to it. */
  add(atMs: number, totals: TokenTotals): TokenRates {
    this.#samples.push({ atMs, ...totals })
    // The newest sample at or before the window's beginning is where it is measured from.
    const inside = this.#samples.findIndex((sample) => sample.atMs > atMs - this.#spanMs)
    if (inside > 1) this.#samples = this.#samples.slice(inside - 1)
    const [first] = this.#samples
    const seconds = first === undefined ? 0 : (atMs - first.atMs) / 1000
    if (first === undefined || seconds <= 0) return { prefill: 0, decode: 0 }
    return {
      prefill: (totals.prompt - first.prompt) / seconds,
      decode: (totals.generated - first.generated) / seconds,
    }
  }
}
