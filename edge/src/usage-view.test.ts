import { describe, expect, it } from 'vitest'
import { ApiError } from '#protocol/errors.ts'
import type { UsageReport } from './objects/tenant/usage.ts'
import { parseUsageQuery, usageCsv, viewUsage } from './usage-view.ts'

const NOON_MS = Date.UTC(2026, 2, 15, 12)

function parse(query: string): unknown {
  try {
    return parseUsageQuery(new URLSearchParams(query), NOON_MS)
  } catch (error) {
    if (error instanceof ApiError) return [error.status, error.param]
    throw error
  }
}

const GROUPS = ['day', 'project', 'key', 'model'] as const
const DEFAULTS = {
  from: '2026-02-14',
  to: '2026-03-15',
  filter: {},
  groupBy: GROUPS,
  after: null,
  limit: 1000,
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
      { filter: { key: 'aaaaaaaaaaaaaaaabbbbbbbb', model: 'm' } },
    ],
    ['project=search', { filter: { project: 'search' } }],
    ['group_by=model,day&limit=5', { groupBy: ['day', 'model'], limit: 5 }],
    ['group_by=', { groupBy: [] }],
    ['group_by=day&after=%5B%222026-03-01%22%5D', { groupBy: ['day'], after: ['2026-03-01'] }],
  ])('reads "%s"', (query, expected) => {
    expect(parse(query)).toEqual({ ...DEFAULTS, ...expected })
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
    ['project=Not+One', [400, 'project']],
    ['group_by=day,day', [400, 'group_by']],
    ['group_by=tenant', [400, 'group_by']],
    ['limit=0', [422, 'limit']],
    ['limit=10001', [422, 'limit']],
    ['after=x', [400, 'after']],
    ['after=%5B%22a%22%5D', [400, 'after']],
  ])('refuses "%.40s"', (query, expected) => {
    expect(parse(query)).toEqual(expected)
  })
})

const report: UsageReport = {
  totals: {
    requests: 3,
    promptTokens: 30,
    cachedTokens: 8,
    completionTokens: 12,
    amountPico: 3_000_000_000_001n,
  },
  rows: [
    {
      of: { day: '2026-03-01', model: '=cmd,"x"' },
      sums: {
        requests: 1,
        promptTokens: 10,
        cachedTokens: 8,
        completionTokens: 4,
        amountPico: 280_000n,
      },
    },
  ],
  hasMore: true,
  parkedRecords: 0,
}
const query = { ...DEFAULTS, groupBy: ['day', 'model'] as const }

describe('viewUsage', () => {
  it('shows amounts to the pico-dollar, and where to read on', () => {
    const view = viewUsage(query, report)
    expect(view).toEqual({
      object: 'usage',
      from: '2026-02-14',
      to: '2026-03-15',
      totals: {
        requests: 3,
        prompt_tokens: 30,
        cached_tokens: 8,
        completion_tokens: 12,
        total_tokens: 42,
        amount_usd: '3.000000000001',
      },
      data: [
        {
          day: '2026-03-01',
          model: '=cmd,"x"',
          requests: 1,
          prompt_tokens: 10,
          cached_tokens: 8,
          completion_tokens: 4,
          total_tokens: 14,
          amount_usd: '0.00000028',
        },
      ],
      has_more: true,
      next: expect.any(String),
    })
    const next = new URLSearchParams({ group_by: 'day,model', after: view.next ?? '' })
    expect(parseUsageQuery(next, NOON_MS).after).toEqual(['2026-03-01', '=cmd,"x"'])
  })
})

describe('usageCsv', () => {
  it('has a header and a line a row, and no text a spreadsheet would run', () => {
    expect(usageCsv(query, report)).toBe(
      'day,model,requests,prompt_tokens,cached_tokens,completion_tokens,total_tokens,amount_usd\r\n' +
        `2026-03-01,"'=cmd,""x""",1,10,8,4,14,0.00000028\r\n`,
    )
  })
})
