import { Hono } from 'hono'
import { ApiError } from '#protocol/errors.ts'
import { usageRecordBatchSchema, verifyUsageRecord } from '#protocol/usage-record.ts'
import type { UsageRecord, UsageRecordAck } from '#protocol/usage-record.ts'
import type { AppContext, AppDeps, AppEnv } from '../context.ts'
import { sluicePools } from '../env.ts'
import type { SluicePool } from '../env.ts'
import { answerNotFound, logFailure, refuseMethod } from '../failures.ts'
import { tenantObject } from '../objects/stubs.ts'
import type { ApplyStatus } from '../objects/tenant/tenant.ts'
import { parseJsonBytes, readBody } from '../request-body.ts'
import { slicesOf, withPauses } from '../slices.ts'

/** 256 records, the batch's limit, at 4 KiB each. */
const BATCH_BYTES_MAX = 1024 * 1024

/**
 * So many are checked, and so many booked, without a pause. Either costs some tenth of a millisecond
 * a record, and requests at the same isolate, or for the same tenant, wait behind it more than once.
 */
const CHECKED_TOGETHER = 8
const BOOKED_TOGETHER = 16

/** What becomes of one record of a batch. */
type Verdict = ApplyStatus | 'signature_invalid' | 'unreachable'

interface IndexedRecord {
  readonly index: number
  readonly record: UsageRecord
}

/**
 * `POST /internal/usage-records`: where backends push what their requests cost. Each record carries
 * its own proof, its pool's signature, so the route asks for no other credential.
 */
export function usageRecords(deps: AppDeps): Hono<AppEnv> {
  const routes = new Hono<AppEnv>()
  routes.post('/usage-records', async (c) => {
    const batch = await readBatch(c.req.raw)
    return c.json(toAck(await settle(c, batch, deps)))
  })
  routes.all('/usage-records', refuseMethod('POST'))
  routes.all('*', answerNotFound)
  return routes
}

async function readBatch(request: Request): Promise<readonly string[]> {
  const body = parseJsonBytes(await readBody(request, BATCH_BYTES_MAX))
  const parsed = usageRecordBatchSchema.safeParse(body)
  if (parsed.success) return parsed.data.records
  const message = 'The body must be {"records": […]} with 1 to 256 signed records.'
  throw new ApiError('invalid_request_error', message, { param: 'records' })
}

/** One verdict a record, in the batch's order. */
async function settle(
  c: AppContext,
  batch: readonly string[],
  deps: AppDeps,
): Promise<readonly Verdict[]> {
  const pools = sluicePools(c.get('settings').pools)
  const records: (UsageRecord | null)[] = []
  for await (const some of withPauses(slicesOf(batch, CHECKED_TOGETHER))) {
    records.push(...(await Promise.all(some.map((jws) => verify(jws, pools)))))
  }
  const genuine = records.flatMap((record, index) => (record === null ? [] : [{ index, record }]))
  const verdicts = batch.map((): Verdict => 'signature_invalid')
  const byTenant = Map.groupBy(genuine, ({ record }) => record.tenantId)
  await Promise.all(
    [...byTenant.values()].map(async (entries) => {
      for await (const some of withPauses(slicesOf(entries, BOOKED_TOGETHER))) {
        const statuses = await apply(c, some, deps)
        some.forEach(({ index, record }, place) => {
          const verdict = statuses[place] ?? 'unreachable'
          verdicts[index] = verdict
          reportOddity(verdict, record, deps)
        })
      }
    }),
  )
  return verdicts
}

/** The record, if it is signed by the pool that it names. */
async function verify(jws: string, pools: readonly SluicePool[]): Promise<UsageRecord | null> {
  for (const pool of pools) {
    const record = await verifyUsageRecord(jws, pool.recordPublicKey)
    if (record?.pool === pool.id) return record
  }
  return null
}

/** Hands one tenant its records; nothing when its object cannot be reached now. */
async function apply(
  c: AppContext,
  entries: readonly IndexedRecord[],
  deps: AppDeps,
): Promise<readonly Verdict[]> {
  const [first] = entries
  if (first === undefined) return []
  const records = entries.map(({ record }) => record)
  try {
    return await tenantObject(c.env, first.record.tenantId).applyUsageRecords(records, deps.now())
  } catch (cause) {
    logFailure(deps, 'object_unreachable', cause)
    return []
  }
}

/** All are kept safe, here or by the sender, and all need a person to look. */
function reportOddity(verdict: Verdict, record: UsageRecord, deps: AppDeps): void {
  if (verdict !== 'conflict' && verdict !== 'parked' && verdict !== 'late') return
  logFailure(deps, `usage_record_${verdict}`, null, {
    request_id: record.requestId,
    tenant_id: record.tenantId,
    pool: record.pool,
  })
}

/**
 * Acknowledged: safely here, the sender may forget it. Rejected: will never be taken. In neither
 * list: could not be decided now, to be sent again.
 */
function toAck(verdicts: readonly Verdict[]): UsageRecordAck {
  const ack: UsageRecordAck = { acknowledged: [], rejected: [] }
  verdicts.forEach((verdict, index) => {
    switch (verdict) {
      case 'applied':
      case 'exists':
      case 'waiting':
      case 'parked':
      case 'late':
        ack.acknowledged.push(index)
        break
      case 'conflict':
      case 'signature_invalid':
        ack.rejected.push({ index, reason: verdict })
        break
      case 'unreachable':
        break
      default:
        verdict satisfies never
    }
  })
  return ack
}
