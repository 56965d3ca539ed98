/** Finished ids remembered: with tokens valid for a minute, at up to a thousand requests a second. */
const finishedMax = 65_536

/**
 * Request ids that have been used. Usage is settled once per id, so a second answer under the same
 * id would be free; a retry has to come with an id of its own.
 */
export class RequestIds {
  readonly #running = new Set<string>()
  readonly #finished: Set<string>

  /** `recorded`: ids whose records are still on disk from before. */
  constructor(recorded: Iterable<string> = []) {
    this.#finished = new Set(recorded)
  }

  /** Whether the id is new; if so it is taken. */
  claim(id: string): boolean {
    if (this.#running.has(id) || this.#finished.has(id)) return false
    this.#running.add(id)
    return true
  }

  /** Nothing was generated under the id and nothing recorded: it may come again. */
  release(id: string): void {
    this.#running.delete(id)
  }

  /** The id's record is kept; it may not come again. */
  finish(id: string): void {
    this.#running.delete(id)
    this.#finished.add(id)
    for (const oldest of this.#finished) {
      if (this.#finished.size <= finishedMax) break
      this.#finished.delete(oldest)
    }
  }
}
