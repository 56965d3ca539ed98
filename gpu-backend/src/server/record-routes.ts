import type { Handler } from 'hono'
import { ApiError } from '#protocol/errors.ts'
import {
  RECORDS_READ_MAX,
  recordAckSchema,
  type RecordLookup,
  type RecordPage,
} from '#protocol/usage-record.ts'
import type { AppEnv } from './app.ts'
import type { Backend } from './backend.ts'
import { readBody } from './request-body.ts'

/** An acknowledgement of as many records as may be read at once, and room to spare. */
const ackBytesMax = 65_536

/** `GET /v1/records`: what the edge has not acknowledged, behind a cursor. */
export function readRecords(backend: Backend): Handler<AppEnv> {
  return function showRecords(c) {
    const { records } = backend.options
    const after = c.req.query('after') ?? ''
    const found = records.pendingAfter(seqOf(records.id, after), limitOf(c.req.query('limit')))
    const page: RecordPage = {
      records: found.map(({ seq, requestId, jws }) => ({
        cursor: cursorOf(records.id, seq),
        requestId,
        jws,
      })),
      next: cursorOf(records.id, found.at(-1)?.seq ?? seqOf(records.id, after)),
    }
    return c.json(page)
  }
}

/** `POST /v1/records/ack`: these are safe at the edge and need not be kept. */
export function acknowledgeRecords(backend: Backend): Handler<AppEnv> {
  return async function takeAck(c) {
    const body = parseAck(await readBody(c.env.incoming, ackBytesMax))
    const { records } = backend.options
    const known = body.cursors.flatMap((cursor) => {
      const seq = seqOf(records.id, cursor)
      return records.pendingAfter(seq - 1, 1).filter((record) => record.seq === seq)
    })
    await records.acknowledge(known)
    return c.json({ acknowledged: known.length })
  }
}

/**
 * `GET /v1/records/{requestId}`: settles what has become of a request. Having answered `unknown`, the
 * backend takes no request of that id any more: who asked may release what was reserved for it.
 */
export function lookUpRecord(backend: Backend): Handler<AppEnv> {
  return function showRecord(c) {
    return c.json(lookUp(backend, c.req.param('id') ?? ''))
  }
}

function lookUp({ options }: Backend, requestId: string): RecordLookup {
  // The spool first: the record is there before the id counts as finished.
  const spooled = options.records.find(requestId)
  if (spooled !== null) return { status: 'recorded', jws: spooled.jws }
  const state = options.requestIds.state(requestId)
  if (state === 'running') return { status: 'under_way' }
  if (state === 'recorded') return { status: 'acknowledged' }
  options.requestIds.forbid(requestId)
  return { status: 'unknown' }
}

function cursorOf(spoolId: string, seq: number): string {
  return `${spoolId}.${seq}`
}

/** The number in a cursor of this spool; 0, the beginning, for any other. */
function seqOf(spoolId: string, cursor: string): number {
  const at = cursor.lastIndexOf('.')
  const seq = cursor.slice(at + 1)
  return cursor.slice(0, Math.max(0, at)) === spoolId && /^\d{1,15}$/.test(seq) ? Number(seq) : 0
}

function limitOf(text: string | undefined): number {
  if (text === undefined) return RECORDS_READ_MAX
  const limit = /^\d{1,4}$/.test(text) ? Number(text) : 0
  if (limit >= 1 && limit <= RECORDS_READ_MAX) return limit
  const message = `'limit' must be a whole number from 1 to ${RECORDS_READ_MAX}.`
  throw new ApiError('invalid_request_error', message, { param: 'limit' })
}

function parseAck(text: string): { readonly cursors: readonly string[] } {
  try {
    return recordAckSchema.parse(JSON.parse(text))
  } catch (cause) {
    const message = `The body must be {"cursors": […]} with 1 to ${RECORDS_READ_MAX} cursors.`
    throw new ApiError('invalid_request_error', message, { cause, param: 'cursors' })
  }
}
