import { expect } from 'vitest'

/** Asserts as many values as expected, each off by at most `tolerance`, relative where above one. */
export function expectClose(
  found: Iterable<number>,
  expected: readonly number[],
  tolerance: number = 1e-6,
): void {
  const values = [...found]
  expect(values).toHaveLength(expected.length)
  for (const [i, value] of expected.entries()) {
    const error = Math.abs((values[i] ?? Number.NaN) - value) / Math.max(1, Math.abs(value))
    expect(error, `element ${i}: ${values[i]}, expected ${value}`).toBeLessThanOrEqual(tolerance)
  }
}
