import { describe, expect, it } from 'vitest'
import { ApiError } from '#protocol/errors.ts'
import { parseUsageQuery } from './usage-view.ts'

const NOON_MS = Date.UTC(2026, 2, 15, 12)

function parse(query: string): unknown {
  try {
    return parseUsageQuery(new URLSearchParams(query), NOON_MS)
  } catch (error) {
    if (error instanceof ApiError) return [error.status, error.param]
    throw error
  }
}

describe('parseUsageQuery', () => {
  it.each([
    ['', { from: '2026-02-14', to: '2026-03-15' }],
    ['to=2026-03-01', { from: '2026-01-31', to: '2026-03-01' }],
    ['from=2026-03-15', { from: '2026-03-15', to: '2026-03-15' }],
    ['from=2025-01-01&to=2026-01-01', { from: '2025-01-01', to: '2026-01-01' }],
    ['from=2028-02-29&to=2028-02-29', { from: '2028-02-29', to: '2028-02-29' }],
    [
      'model=m&key=aaaaaaaaaaaaaaaabbbbbbbb&other=ignored',
      { from: '2026-02-14', to: '2026-03-15', keyId: 'aaaaaaaaaaaaaaaabbbbbbbb', model: 'm' },
    ],
  ])('reads "%s"', (query, expected) => {
    expect(parse(query)).toEqual(expected)
  })

  it.each([
    ['from=yesterday', [400, 'from']],
    ['to=2026-02-30', [400, 'to']],
    ['to=2026-3-1', [400, 'to']],
    ['to=2026-03-01T00:00', [400, 'to']],
    ['from=', [400, 'from']],
    ['from=2026-03-16', [422, 'from']],
    ['from=2025-01-01&to=2026-01-02', [422, 'from']],
    ['key=sk-sluice-x', [400, 'key']],
    ['model=', [400, 'model']],
    [`model=${'m'.repeat(257)}`, [400, 'model']],
  ])('refuses "%.40s"', (query, expected) => {
    expect(parse(query)).toEqual(expected)
  })
})
