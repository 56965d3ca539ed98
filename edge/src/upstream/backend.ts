import { REQUEST_ID_HEADER } from '#protocol/headers.ts'
import { signServiceToken } from '#protocol/service-token.ts'
import type { AppDeps, Caller } from '../context.ts'
import type { Pool, Settings } from '../env.ts'
import { logFailure, overloaded } from '../failures.ts'

export interface BackendCall {
  readonly pool: Pool
  readonly path: string
  readonly requestId: string
  readonly caller: Caller
  /** Besides the token and the request's id. */
  readonly headers?: Readonly<Record<string, string>>
  /** The client's: when it goes, the call goes. */
  readonly signal: AbortSignal
  /** JSON, posted as it is; null makes the call a GET. */
  readonly body: Uint8Array | null
}

/**
 * The backend's response as soon as its headers are there. Throws a 503 when it cannot be reached
 * or keeps silent for longer than the settings allow. No header of the client's own goes along.
 */
export async function callBackend(
  call: BackendCall,
  settings: Settings,
  deps: AppDeps,
): Promise<Response> {
  const { pool, requestId, body } = call
  const { tenantId, keyId } = call.caller
  const token = await signServiceToken(
    { pool: pool.id, requestId, tenantId, keyId },
    settings.signingKey,
    deps.now(),
  )
  // Not AbortSignal.timeout: it would go on to cut the stream that follows the headers.
  const silence = new AbortController()
  const timer = setTimeout(() => silence.abort(), settings.backendHeadersTimeoutMs)
  try {
    return await deps.fetch(`${pool.url}${call.path}`, {
      method: body === null ? 'GET' : 'POST',
      headers: {
        authorization: `Bearer ${token}`,
        [REQUEST_ID_HEADER]: requestId,
        'accept-encoding': 'identity',
        ...(body === null ? {} : { 'content-type': 'application/json' }),
        ...call.headers,
      },
      ...(body === null ? {} : { body }),
      redirect: 'manual',
      signal: AbortSignal.any([call.signal, silence.signal]),
    })
  } catch (cause) {
    if (!call.signal.aborted) {
      logFailure(deps, 'backend_unreachable', cause, { request_id: requestId, pool: pool.id })
    }
    throw overloaded('No backend can take this request right now. Try again.', deps.random)
  } finally {
    clearTimeout(timer)
  }
}
