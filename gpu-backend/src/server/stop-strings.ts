import { heldSuffix } from '../text/held-suffix.ts'

/**
 * Looks for stop strings in a text that comes in pieces. What might be the beginning of one is held
 * back until it is clear, so a stop string never shows.
 */
export class StopFilter {
  readonly #stops: readonly string[]
  #held = ''
  #stopped = false

  constructor(stops: readonly string[]) {
    this.#stops = stops
  }

  /** Whether a stop string was found; nothing comes out after it. */
  get stopped(): boolean {
    return this.#stopped
  }

  /** The text that is now known to come before any stop string. */
  push(text: string): string {
    if (this.#stopped) return ''
    const all = this.#held + text
    const found = this.#stops.map((stop) => all.indexOf(stop)).filter((at) => at >= 0)
    if (found.length > 0) {
      this.#stopped = true
      this.#held = ''
      return all.slice(0, Math.min(...found))
    }
    this.#held = heldSuffix(all, this.#stops)
    return all.slice(0, all.length - this.#held.length)
  }

  /** What was held back: the text is over, or something else follows it. */
  flush(): string {
    const held = this.#held
    this.#held = ''
    return held
  }
}
