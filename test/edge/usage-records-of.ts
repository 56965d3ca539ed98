import type { UsageRecord } from '#protocol/usage-record.ts'
import { MODEL, NOON_MS } from './edge-app.ts'

/** A record that holds together, with what a test cares about laid over it. */
export function usageRecord(over: Partial<UsageRecord>): UsageRecord {
  return {
    version: 1,
    requestId: 'req_1',
    tenantId: 'aaaaaaaaaaaaaaaa',
    keyId: 'aaaaaaaaaaaaaaaabbbbbbbb',
    pool: 'pool-a',
    backendId: 'backend-1',
    model: MODEL,
    checkpointHash: 'cafe',
    promptTokens: 100,
    cachedTokens: 64,
    completionTokens: 20,
    reasoningTokens: 5,
    deliveredTokens: 20,
    outcome: 'stop',
    acceptedAtMs: NOON_MS,
    firstTokenAtMs: NOON_MS + 10,
    finishedAtMs: NOON_MS + 500,
    ...over,
  }
}
