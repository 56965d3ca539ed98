import { signPoolToken } from '#protocol/service-token.ts'
import { recordLookupSchema, verifyUsageRecord } from '#protocol/usage-record.ts'
import type { UsageRecord } from '#protocol/usage-record.ts'
import { readWhole } from '../bytes.ts'
import type { AppDeps } from '../context.ts'
import { sluicePools } from '../env.ts'
import type { Settings, SluicePool } from '../env.ts'

export type LookupAnswer =
  | { readonly kind: 'record'; readonly record: UsageRecord }
  | { readonly kind: 'under_way' }
  | { readonly kind: 'unknown' }

const ANSWER_BYTES_MAX = 64 * 1024
const TIMEOUT_MS = 5_000

export interface LookupTools {
  readonly settings: Settings
  readonly fetch: AppDeps['fetch']
  readonly now: () => number
}

/** A request whose fate is to be found out. */
export interface Missed {
  readonly requestId: string
  readonly model: string
  /** Whether an isolate has said lately that it streams its answer. */
  readonly heardOf: boolean
}

/**
 * What became of a request, by the word of everybody who may have run it. Null when that cannot be
 * told now: only when every one of them has answered that it does not know is it unknown. Of another
 * engine's nothing is known but whether its answer still streams.
 */
export async function askBackends(
  { requestId, model, heardOf }: Missed,
  tools: LookupTools,
): Promise<LookupAnswer | null> {
  const serving = tools.settings.pools.filter((pool) => pool.models.includes(model))
  const streaming = heardOf && serving.some(({ kind }) => kind === 'openai')
  const asked = sluicePools(serving).map((pool) => askPool(requestId, pool, tools))
  const answer = serving.length === 0 ? null : together(await Promise.all(asked))
  return streaming && answer?.kind === 'unknown' ? { kind: 'under_way' } : answer
}

/** The same by the word of one pool's backends. */
export async function askPool(
  requestId: string,
  pool: SluicePool,
  tools: LookupTools,
): Promise<LookupAnswer | null> {
  const asked = pool.backendUrls.map((url) => askBackend(requestId, { pool, url }, tools))
  return together(await Promise.all(asked))
}

function together(answers: readonly (LookupAnswer | null)[]): LookupAnswer | null {
  const known = answers.find((answer) => answer !== null && answer.kind !== 'unknown')
  if (known !== undefined) return known
  return answers.includes(null) ? null : { kind: 'unknown' }
}

async function askBackend(
  requestId: string,
  { pool, url }: { readonly pool: SluicePool; readonly url: string },
  { settings, fetch, now }: LookupTools,
): Promise<LookupAnswer | null> {
  const claims = { pool: pool.id, scope: 'records' } as const
  try {
    const token = await signPoolToken(claims, settings.signingKey, now())
    const response = await fetch(`${url}/v1/records/${encodeURIComponent(requestId)}`, {
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

async function verified(
  jws: string,
  requestId: string,
  pool: SluicePool,
): Promise<LookupAnswer | null> {
  const record = await verifyUsageRecord(jws, pool.recordPublicKey)
  if (record?.pool !== pool.id || record.requestId !== requestId) return null
  return { kind: 'record', record }
}
