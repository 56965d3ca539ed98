/** The open calls of those who wait at an object, and the timer that looks after them. */
export class WaitingCalls<Answer> {
  readonly #calls = new Map<string, PromiseWithResolvers<Answer>>()
  #timer: ReturnType<typeof setTimeout> | null = null
  /** Callers bring the time; between their calls it goes on as this machine's does. */
  #callersAheadMs = 0

  noteTime(nowMs: number): void {
    this.#callersAheadMs = nowMs - Date.now()
  }

  nowMs(): number {
    return Date.now() + this.#callersAheadMs
  }

  /** Resolves with the answer; a call that is repeated waits for the same one. */
  wait(id: string): Promise<Answer> {
    const call = this.#calls.get(id) ?? Promise.withResolvers<Answer>()
    this.#calls.set(id, call)
    return call.promise
  }

  answer(id: string, answer: Answer): void {
    this.#calls.get(id)?.resolve(answer)
    this.#calls.delete(id)
  }

  /** Nobody must wait for ever because something broke. */
  fail(cause: unknown): void {
    for (const call of this.#calls.values()) call.reject(cause)
    this.#calls.clear()
  }

  /** Calls `run` at `atMs` and forgets what was to be called before; null: nothing is. */
  wakeAt(atMs: number | null, run: () => void): void {
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = atMs === null ? null : setTimeout(run, Math.max(1, atMs - this.nowMs()))
  }
}
