/** Finished ids remembered: with tokens valid for a minute, at up to a thousand requests a second. */
const finishedMax = 65_536

/**
 * Request ids that have been used. Usage is settled once per id, so a second answer under the same
 * id would be free; a retry has to come with an id of its own.
 */
export class RequestIds {
  readonly #running = new Set<string>()
  /** Ids that are over, and whether a record was kept for them. */
  readonly #over: Map<string, 'recorded' | 'unrecorded'>

  /** `recorded`: ids whose records are still on disk from before. */
  constructor(recorded: Iterable<string> = []) {
    this.#over = new Map(Array.from(recorded, (id) => [id, 'recorded']))
  }

  /** What has become of the id, as far as it is remembered. */
  state(id: string): 'running' | 'recorded' | 'unrecorded' {
    return this.#running.has(id) ? 'running' : (this.#over.get(id) ?? 'unrecorded')
  }

  /** Whether the id is new; if so it is taken. */
  claim(id: string): boolean {
    if (this.#running.has(id) || this.#over.has(id)) return false
    this.#running.add(id)
    return true
  }

  /** Nothing was generated under the id and nothing recorded: it may come again. */
  release(id: string): void {
    this.#running.delete(id)
  }

  /** The id's record is kept; it may not come again. */
  finish(id: string): void {
    this.#end(id, 'recorded')
  }

  /** No record was or will be kept under the id; it may not come again. */
  forbid(id: string): void {
    this.#end(id, 'unrecorded')
  }

  #end(id: string, how: 'recorded' | 'unrecorded'): void {
    this.#running.delete(id)
    this.#over.set(id, how)
    for (const oldest of this.#over.keys()) {
      if (this.#over.size <= finishedMax) break
      this.#over.delete(oldest)
    }
  }
}
