import { ApiError, ERROR_KINDS } from '#protocol/errors.ts'
import type { ErrorCode } from '#protocol/errors.ts'
import { z } from 'zod'
import { readWhole } from '../bytes.ts'
import type { AppDeps } from '../context.ts'
import type { Pool } from '../env.ts'
import { logFailure, overloaded } from '../failures.ts'

const REFUSAL_BYTES_MAX = 64 * 1024

/** Refusals that are a backend's to make, about the request itself; their words reach the client. */
const BACKEND_CODES = [
  'invalid_request_error',
  'invalid_parameter',
  'model_not_found',
  'context_length_exceeded',
  'request_too_large',
  'server_is_overloaded',
  'timeout',
] as const satisfies readonly ErrorCode[]

const envelopeSchema = z.object({
  error: z.object({
    message: z.string().min(1).max(4096),
    param: z.string().max(1024).nullable(),
    code: z.enum(BACKEND_CODES),
  }),
})

export interface BackendRefusal {
  readonly status: number
  readonly headers: Headers
  /** The body as far as it was read; it may be anything. */
  readonly text: string
}

/** What the client is told of an answer that is none; what is our own trouble is logged. */
export async function refusalOf(
  upstream: Response,
  { requestId, pool }: { readonly requestId: string; readonly pool: Pool },
  deps: AppDeps,
): Promise<ApiError> {
  const bytes = await readWhole(upstream.body, REFUSAL_BYTES_MAX).catch(() => null)
  const text = new TextDecoder().decode(bytes ?? new Uint8Array(0))
  const { status, headers } = upstream
  const refusal = { status, headers, text }
  const error =
    (pool.kind === 'openai' ? foreignRefusal(refusal) : null) ??
    translateRefusal(refusal, deps.random)
  if (error.code === 'internal_server_error') {
    const event = status === 401 ? 'backend_refused_token' : 'backend_answer_invalid'
    logFailure(deps, event, null, { request_id: requestId, status })
  }
  return error
}

const foreignMessage = z.string().min(1).max(2048)
const foreignSchema = z.union([
  z
    .object({ error: z.object({ message: foreignMessage }) })
    .transform(({ error }) => error.message),
  z.object({ message: foreignMessage }).transform(({ message }) => message),
])
const FOREIGN_REFUSALS = [400, 413, 422]

/** Another engine's refusal of the request itself, in its words and our shape; null: none. */
export function foreignRefusal({ status, text }: BackendRefusal): ApiError | null {
  if (!FOREIGN_REFUSALS.includes(status)) return null
  const parsed = parseJson(text, foreignSchema)
  if (parsed === null) {
    return new ApiError('invalid_request_error', 'The engine refused this request.')
  }
  const tooLong = /maximum context length|context_length_exceeded/i.test(parsed)
  return new ApiError(tooLong ? 'context_length_exceeded' : 'invalid_request_error', parsed)
}

/**
 * The error a client gets for a backend's own. One that keeps the contract passes with its words;
 * anything else (a proxy's page, another engine's shape, a 500's detail, a refusal of our own
 * token) is rebuilt, so that nothing of the inside shows and nothing of ours looks like the
 * client's fault.
 */
export function translateRefusal(refusal: BackendRefusal, random: () => number): ApiError {
  const envelope = parseJson(refusal.text, envelopeSchema)?.error ?? null
  if (envelope !== null && ERROR_KINDS[envelope.code].status === refusal.status) {
    const { code, message, param } = envelope
    return new ApiError(code, message, {
      ...(param === null ? {} : { param }),
      ...retryOptions(code, refusal.headers, random),
    })
  }
  // An engine's own 429 says that it is full: the client's limits are kept here, not there.
  if (refusal.status === 429 || refusal.status === 503) {
    return overloaded('Every backend for this model is busy. Try again.', random)
  }
  return new ApiError('internal_server_error', 'The backend could not answer this request.')
}

function parseJson<T>(text: string, schema: z.ZodType<T>): T | null {
  try {
    return schema.parse(JSON.parse(text))
  } catch {
    // Not JSON or not of that shape: the caller rebuilds it.
    return null
  }
}

function retryOptions(
  code: ErrorCode,
  headers: Headers,
  random: () => number,
): { readonly retryAfterSeconds?: number } {
  if (code !== 'server_is_overloaded') return {}
  const ms = Number(headers.get('retry-after-ms') ?? Number.NaN)
  if (Number.isFinite(ms) && ms > 0) return { retryAfterSeconds: ms / 1000 }
  const { retryAfterSeconds } = overloaded('', random)
  return retryAfterSeconds === null ? {} : { retryAfterSeconds }
}
