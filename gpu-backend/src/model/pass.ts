import { strict as assert } from 'node:assert'

/**
 * A part of the forward pass on one device. It pauses where devices that share experts wait for one
 * another, and nowhere else: on a device that has all experts it runs through.
 */
export type Pass<T> = Generator<undefined, T, undefined>

/** Runs the same pass on every device, from one pause to the next; `meet` is called between them. */
export function runTogether<T>(passes: readonly Pass<T>[], meet: () => void): readonly T[] {
  for (;;) {
    const states = passes.map((pass) => pass.next())
    const results = states.flatMap(({ done, value }) => (done === true ? [value] : []))
    if (results.length === passes.length) return results
    assert.equal(results.length, 0, 'all devices pause at the same places')
    meet()
  }
}

/** Runs a pass that has no other device to wait for. */
export function runAlone<T>(pass: Pass<T>): T {
  const { done, value } = pass.next()
  assert(done === true, 'a device that has all experts waits for none')
  return value
}
