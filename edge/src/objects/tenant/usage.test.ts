import { describe, expect, it } from 'vitest'
import type { UsageRecord } from '#protocol/usage-record.ts'
import { canonicalRecord, dayOf } from './usage.ts'

const record: UsageRecord = {
  version: 1,
  requestId: 'req_1',
  tenantId: 'tenant',
  keyId: 'key',
  pool: 'pool',
  backendId: 'backend',
  model: 'model',
  checkpointHash: 'hash',
  promptTokens: 100,
  cachedTokens: 64,
  completionTokens: 20,
  reasoningTokens: 5,
  deliveredTokens: 18,
  outcome: 'cancelled',
  acceptedAtMs: Date.UTC(2026, 10, 23, 23, 59, 59, 999),
  firstTokenAtMs: null,
  finishedAtMs: Date.UTC(2026, 10, 24, 0, 0, 1),
}

describe('dayOf', () => {
  it('turns at midnight UTC', () => {
    expect(dayOf(0)).toBe('1970-01-01')
    expect(dayOf(86_399_999)).toBe('1970-01-01')
    expect(dayOf(86_400_000)).toBe('1970-01-02')
  })
})

describe('canonicalRecord', () => {
  it('does not depend on the order of fields, and on every field’s value', () => {
    const text = canonicalRecord(record)
    const reversed = Object.fromEntries(Object.entries(record).toReversed()) as UsageRecord
    expect(canonicalRecord(reversed)).toBe(text)
    for (const field of Object.keys(record)) {
      const changed = { ...record, [field]: 'changed' } as UsageRecord
      expect(canonicalRecord(changed)).not.toBe(text)
    }
  })
})
