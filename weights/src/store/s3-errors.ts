import { StoreError, type StoreErrorCode } from './store.ts'

/** Whatever the SDK threw as a `StoreError`; errors that are neither the store's nor the network's stay. */
export function toStoreError(error: unknown, key: string, location: string): unknown {
  if (!(error instanceof Error) || error instanceof StoreError) return error
  const code = codeOf(error)
  if (code === null) return error
  // Replies to HEAD have no body, so that the SDK knows neither a name nor a sentence for them.
  const status = httpStatus(error)
  const said = [error.name, error.message, status === null ? '' : `HTTP ${status}`]
    .filter((part) => part !== '' && !part.startsWith('Unknown'))
    .join(', ')
  const fix = code === 'access_denied' ? `; ${accessFix}` : ''
  return new StoreError(code, key, `${key || 'listing'} of ${location}: ${said}${fix}`, {
    cause: error,
  })
}

const accessFix = 'check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what they are allowed to do'

function codeOf(error: Error): StoreErrorCode | null {
  if (error.name === 'AbortError') return 'aborted'
  if (error.name === 'CredentialsProviderError') return 'access_denied'
  const status = httpStatus(error)
  if (status !== null) return codeOfStatus(status)
  // Without a reply it is the network's: refused, reset, timed out, broken off in the body.
  const system = 'code' in error && typeof error.code === 'string' ? error.code : ''
  if (/^(E[A-Z]+|UND_ERR_.*|ERR_STREAM_PREMATURE_CLOSE)$/.test(system)) return 'unavailable'
  return /Timeout|Networking|aborted/.test(`${error.name} ${error.message}`) ? 'unavailable' : null
}

function codeOfStatus(status: number): StoreErrorCode {
  if (status === 404) return 'not_found'
  if (status === 401 || status === 403) return 'access_denied'
  if (status === 416) return 'range_not_satisfiable'
  // Too early, too many, timed out: the store's way to say "again, later".
  if (status >= 500 || status === 408 || status === 425 || status === 429) return 'unavailable'
  return 'rejected'
}

/** Of the reply an SDK error came from, if there was one. */
function httpStatus(error: Error): number | null {
  if (!('$metadata' in error)) return null
  const metadata: unknown = error.$metadata
  if (typeof metadata !== 'object' || metadata === null) return null
  const status = 'httpStatusCode' in metadata ? metadata.httpStatusCode : undefined
  return typeof status === 'number' ? status : null
}
