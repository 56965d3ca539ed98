/** Stops at a broken promise of our own code. What a caller may get wrong is a value, not this. */
export function assert(condition: boolean, whatHeld: string): asserts condition {
  if (!condition) throw new Error(`admission: it no longer holds that ${whatHeld}`)
}
