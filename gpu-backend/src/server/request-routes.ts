import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import type { Handler } from 'hono'
import { ApiError } from '#protocol/errors.ts'
import { LAST_EVENT_ID_HEADER } from '#protocol/headers.ts'
import type { RequestStatus } from '#protocol/request-status.ts'
import { unverifiedRecord, type UsageRecord } from '#protocol/usage-record.ts'
import type { AppEnv } from './app.ts'
import type { Backend } from './backend.ts'
import { ResponseBody } from './response-body.ts'

/** `GET /v1/requests/{id}`: from memory for those running and lately ended, else from the spool. */
export function requestStatus(backend: Backend): Handler<AppEnv> {
  return function showStatus(c) {
    const id = c.req.param('id') ?? ''
    const { tenantId } = c.get('claims')
    const status = backend.requests.status(id, tenantId) ?? recorded(backend, id, tenantId)
    if (status === null) throw noRequest()
    return c.json(status)
  }
}

/** `GET /v1/requests/{id}/events`: a resumable stream, from behind the last event seen. */
export function requestEvents(backend: Backend): Handler<AppEnv> {
  return function resumeEvents(c) {
    const stream = backend.requests.stream(c.req.param('id') ?? '', c.get('claims').tenantId)
    if (stream === null) throw noRequest()
    const after = eventNumber(c.req.query('after') ?? c.req.header(LAST_EVENT_ID_HEADER) ?? '0')
    if (after > stream.last) throw badPosition(`there are ${stream.last} events so far`)
    const status = stream.resume(new ResponseBody(c.env.outgoing), after)
    if (status !== 'resumed') throw badPosition('events behind it are no longer kept')
    backend.options.metrics.streamResumed()
    return RESPONSE_ALREADY_SENT
  }
}

/** One answer for what is not there and what is another tenant's. */
function noRequest(): ApiError {
  return new ApiError('not_found', 'There is no such request, or nothing of it is kept.')
}

function eventNumber(text: string): number {
  if (/^\d{1,15}$/.test(text)) return Number(text)
  throw badPosition('it must be the id of an event')
}

function badPosition(why: string): ApiError {
  const message = `The stream cannot be resumed from there: ${why}.`
  return new ApiError('invalid_request_error', message, { param: 'after' })
}

function recorded(backend: Backend, id: string, tenantId: string): RequestStatus | null {
  const spooled = backend.options.records.find(id)
  const record = spooled === null ? null : unverifiedRecord(spooled.jws)
  return record?.tenantId === tenantId ? statusOf(record) : null
}

function statusOf(record: UsageRecord): RequestStatus {
  return {
    id: record.requestId,
    object: 'request',
    model: record.model,
    state: 'finished',
    outcome: record.outcome,
    prompt_tokens: record.promptTokens,
    cached_tokens: record.cachedTokens,
    completion_tokens: record.completionTokens,
    reasoning_tokens: record.reasoningTokens,
    delivered_tokens: record.deliveredTokens,
    accepted_at_ms: record.acceptedAtMs,
    started_at_ms: record.startedAtMs ?? null,
    first_token_at_ms: record.firstTokenAtMs,
    finished_at_ms: record.finishedAtMs,
    last_event: null,
  }
}
