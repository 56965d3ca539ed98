export interface LimitedRun<T> {
  readonly items: readonly T[]
  /** Tasks that may run at a time. */
  readonly limit: number
  readonly signal?: AbortSignal | undefined
}

/**
 * Runs `task` for every item, in order of start. After a failure no further task starts, and those
 * running are told by their signal; when all have stopped, the first failure is thrown.
 */
export async function eachLimited<T>(
  { items, limit, signal }: LimitedRun<T>,
  task: (item: T, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const stop = new AbortController()
  const either = AbortSignal.any(signal === undefined ? [stop.signal] : [stop.signal, signal])
  let next = 0
  const worker = async (): Promise<void> => {
    while (next < items.length && !stop.signal.aborted) {
      const item = items[next++] as T
      try {
        await task(item, either)
      } catch (error) {
        // The first reason stays; later failures are its echo, reads cut off by the abort.
        stop.abort(error)
      }
    }
  }
  await Promise.all(Array.from({ length: Math.min(limit, items.length) }, worker))
  if (stop.signal.aborted) throw stop.signal.reason
}
