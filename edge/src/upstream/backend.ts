import { REQUEST_ID_HEADER } from '#protocol/headers.ts'
import type { AppDeps, Caller } from '../context.ts'
import type { Pool, Settings } from '../env.ts'
import { logFailure, overloaded } from '../failures.ts'

export interface BackendCall {
  readonly pool: Pool
  /** One backend's own address, where it has to be a certain one of the pool. */
  readonly url?: string
  readonly path: string
  readonly requestId: string
  readonly caller: Caller
  /** Besides the token and the request's id. */
  readonly headers?: Readonly<Record<string, string>>
  /** How long it may keep silent, where that is not the settings' to say. */
  readonly headersWithinMs?: number
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
  const credential = await credentialFor(call, settings, deps)
  // Not AbortSignal.timeout: it would go on to cut the stream that follows the headers.
  const silence = new AbortController()
  const withinMs = call.headersWithinMs ?? settings.backendHeadersTimeoutMs
  const timer = setTimeout(() => silence.abort(), withinMs)
  try {
    return await deps.fetch(`${call.url ?? pool.url}${call.path}`, {
      method: body === null ? 'GET' : 'POST',
      headers: {
        ...(credential === null ? {} : { authorization: `Bearer ${credential}` }),
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

/** Ours take a token made for the caller; another engine what its operator gave out, if anything. */
function credentialFor(
  { pool, caller: { tenantId, keyId } }: BackendCall,
  { serviceTokens }: Settings,
  deps: AppDeps,
): Promise<string> | string | null {
  if (pool.kind === 'openai') return pool.apiKey
  return serviceTokens.get({ pool: pool.id, tenantId, keyId }, deps.now())
}
