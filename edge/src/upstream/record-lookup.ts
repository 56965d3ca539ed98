import { signPoolToken } from '#protocol/service-token.ts'
import { recordLookupSchema, verifyUsageRecord } from '#protocol/usage-record.ts'
import type { UsageRecord } from '#protocol/usage-record.ts'
import { readWhole } from '../bytes.ts'
import type { Pool, Settings } from '../env.ts'

export type LookupAnswer =
  | { readonly kind: 'record'; readonly record: UsageRecord }
  | { readonly kind: 'under_way' }
  | { readonly kind: 'unknown' }

const ANSWER_BYTES_MAX = 64 * 1024
const TIMEOUT_MS = 5_000

/**
 * What became of a request, by the word of the pools that serve its model. Null when that cannot be
 * told now: only when every one of them has answered that it does not know is it unknown.
 */
export async function askBackends(
  requestId: string,
  model: string,
  settings: Settings,
): Promise<LookupAnswer | null> {
  const serving = settings.pools.filter((pool) => pool.models.includes(model))
  const answers = await Promise.all(serving.map((pool) => askBackend(requestId, pool, settings)))
  const known = answers.find((answer) => answer !== null && answer.kind !== 'unknown')
  if (known !== undefined) return known
  return answers.length > 0 && !answers.includes(null) ? { kind: 'unknown' } : null
}

async function askBackend(
  requestId: string,
  pool: Pool,
  settings: Settings,
): Promise<LookupAnswer | null> {
  const claims = { pool: pool.id, scope: 'records' } as const
  try {
    const token = await signPoolToken(claims, settings.signingKey, Date.now())
    const response = await fetch(`${pool.url}/v1/records/${encodeURIComponent(requestId)}`, {
      headers: { authorization: `Bearer ${token}`, 'accept-encoding': 'identity' },
      redirect: 'manual',
      signal: AbortSignal.timeout(TIMEOUT_MS),
    })
    const bytes = await readWhole(response.body, ANSWER_BYTES_MAX)
    if (response.status !== 200 || bytes === null) return null
    const lookup = recordLookupSchema.parse(JSON.parse(new TextDecoder().decode(bytes)))
    if (lookup.status === 'recorded') return await verified(lookup.jws, requestId, pool)
    // Acknowledged: we have it, or are about to; our own row will say.
    return lookup.status === 'unknown' ? { kind: 'unknown' } : { kind: 'under_way' }
  } catch {
    // Unreachable, or an answer of another kind: asked again later.
    return null
  }
}

async function verified(jws: string, requestId: string, pool: Pool): Promise<LookupAnswer | null> {
  const record = await verifyUsageRecord(jws, pool.recordPublicKey)
  if (record?.pool !== pool.id || record.requestId !== requestId) return null
  return { kind: 'record', record }
}
