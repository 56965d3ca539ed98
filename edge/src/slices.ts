/**
 * Between two slices of long work others get a turn. Calls between objects of one process are no
 * pause: only a timer lets what has arrived at the sockets go on.
 */
const PAUSE_MS = 1

/** `items` in their order, `length` at a time; the last slice may be shorter. */
export function* slicesOf<Item>(items: readonly Item[], length: number): Iterable<readonly Item[]> {
  for (let from = 0; from < items.length; from += length) yield items.slice(from, from + length)
}

/** Each of `slices`, with a pause before every one but the first. */
export async function* withPauses<Slice>(slices: Iterable<Slice>): AsyncIterable<Slice> {
  let pauses = false
  for (const slice of slices) {
    if (pauses) await scheduler.wait(PAUSE_MS)
    pauses = true
    yield slice
  }
}
