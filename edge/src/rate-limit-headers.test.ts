import { describe, expect, it } from 'vitest'
import { formatDuration, rateLimitHeaders } from './rate-limit-headers.ts'

describe('rateLimitHeaders', () => {
  it('says limit, remainder and reset of each dimension, the tightest of tokens as tokens', () => {
    const headers = rateLimitHeaders([
      { dimension: 'requests', limit: 600, remaining: 59, resetMs: 100 },
      { dimension: 'inputTokens', limit: 1_000_000, remaining: 98_976, resetMs: 61 },
      { dimension: 'outputTokens', limit: 100_000, remaining: -5, resetMs: 6_003 },
      { dimension: 'concurrency', limit: 50, remaining: 49, resetMs: 0 },
    ])
    expect(headers).toEqual({
      'x-ratelimit-limit-requests': '600',
      'x-ratelimit-remaining-requests': '59',
      'x-ratelimit-reset-requests': '100ms',
      'x-ratelimit-limit-input-tokens': '1000000',
      'x-ratelimit-remaining-input-tokens': '98976',
      'x-ratelimit-reset-input-tokens': '61ms',
      'x-ratelimit-limit-output-tokens': '100000',
      'x-ratelimit-remaining-output-tokens': '0',
      'x-ratelimit-reset-output-tokens': '6.003s',
      'x-ratelimit-limit-concurrency': '50',
      'x-ratelimit-remaining-concurrency': '49',
      'x-ratelimit-limit-tokens': '100000',
      'x-ratelimit-remaining-tokens': '0',
      'x-ratelimit-reset-tokens': '6.003s',
      'ratelimit-policy':
        '"requests";q=600;w=60, "input-tokens";q=1000000;w=60, "output-tokens";q=100000;w=60, ' +
        '"concurrency";q=50;qu="concurrent-requests"',
      ratelimit:
        '"requests";r=59;t=1, "input-tokens";r=98976;t=1, "output-tokens";r=0;t=7, "concurrency";r=49',
    })
  })

  it('shows the tightest of several limits on one dimension', () => {
    const headers = rateLimitHeaders([
      { dimension: 'requests', limit: 600, remaining: 59, resetMs: 100 },
      { dimension: 'requests', limit: 60, remaining: 2, resetMs: 4_000 },
    ])
    expect(headers['x-ratelimit-limit-requests']).toBe('60')
    expect(headers['ratelimit']).toBe('"requests";r=2;t=4')
  })

  it('says nothing where nothing is limited', () => {
    expect(rateLimitHeaders([])).toEqual({})
  })
})

describe('formatDuration', () => {
  it.each([
    [0, '0ms'],
    [99.2, '100ms'],
    [1_200, '1.2s'],
    [59_999, '59.999s'],
    [360_000, '6m0s'],
    [61_500, '1m1.5s'],
  ])('writes %d ms', (ms, text) => {
    expect(formatDuration(ms)).toBe(text)
  })
})
