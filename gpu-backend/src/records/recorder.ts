import type { CryptoKey } from 'jose'
import type { RequestClaims } from '#protocol/service-token.ts'
import { signUsageRecord, type UsageRecord } from '#protocol/usage-record.ts'
import type { RecordSpool } from './spool.ts'

/** What one request used, as far as the request itself knows. */
export interface MeasuredUsage extends Omit<
  UsageRecord,
  'version' | 'requestId' | 'tenantId' | 'keyId' | 'pool' | 'backendId'
> {
  readonly prefilledTokens: number
  readonly startedAtMs: number | null
}

/** Signs what a request used and keeps it; resolves when it is on disk. */
export type KeepUsage = (claims: RequestClaims, usage: MeasuredUsage) => Promise<void>

export function createRecorder(options: {
  readonly spool: Pick<RecordSpool, 'append'>
  readonly backendId: string
  readonly privateKey: CryptoKey
}): KeepUsage {
  const { spool, backendId, privateKey } = options
  return async function keepUsage(claims, usage) {
    const record: UsageRecord = { version: 1, ...claims, backendId, ...usage }
    const jws = await signUsageRecord(record, privateKey)
    await spool.append({ requestId: claims.requestId, jws })
  }
}
