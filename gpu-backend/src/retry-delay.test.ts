import { expect, it } from 'vitest'
import { retryDelayMs } from './retry-delay.ts'

it('doubles from a quarter of a second up to half a minute', () => {
  const delays = [0, 1, 2, 6, 7, 1000].map((failures) => retryDelayMs(failures, () => 1))
  expect(delays).toEqual([250, 500, 1000, 16_000, 30_000, 30_000])
})

it('is never less than half of that', () => {
  expect([0, 1, 1000].map((failures) => retryDelayMs(failures, () => 0))).toEqual([
    125, 250, 15_000,
  ])
})
