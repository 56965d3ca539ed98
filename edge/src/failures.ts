import { ApiError } from '#protocol/errors.ts'
import type { AppDeps } from './context.ts'
import { SettingsError } from './env.ts'

const RETRY_SECONDS = 2
/** Spread over the advised wait, so that clients turned away together do not come back together. */
const RETRY_JITTER = 0.2

/** A 503 that says when to come back. */
export function overloaded(message: string, random: () => number): ApiError {
  const retryAfterSeconds = RETRY_SECONDS * (1 + RETRY_JITTER * random())
  return new ApiError('server_is_overloaded', message, { retryAfterSeconds })
}

/**
 * What a Durable Object answered, or a 503 when it could not be asked. Never a refusal: a key that
 * cannot be looked up is not a wrong key.
 */
export async function reachObject<P extends PromiseLike<unknown>>(
  answer: P,
  deps: AppDeps,
): Promise<Awaited<P>> {
  try {
    return await answer
  } catch (cause) {
    logFailure(deps, 'object_unreachable', cause)
    throw overloaded('The service cannot look up this account right now. Try again.', deps.random)
  }
}

function errorResponse(error: ApiError): Response {
  return new Response(JSON.stringify(error.toEnvelope()), {
    status: error.status,
    headers: { 'content-type': 'application/json', ...error.toHeaders() },
  })
}

/** Turns whatever a handler threw into the API's error body; what is not an `ApiError` is ours. */
export function answerErrors(deps: AppDeps) {
  return function answerError(error: Error): Response {
    if (error instanceof ApiError) return errorResponse(error)
    const event = error instanceof SettingsError ? 'settings_invalid' : 'unexpected_error'
    logFailure(deps, event, error)
    return errorResponse(
      new ApiError(
        'internal_server_error',
        'The service failed. The request id helps us find why.',
      ),
    )
  }
}

export function answerNotFound(): Response {
  return errorResponse(new ApiError('not_found', 'There is nothing at this path.'))
}

/** A handler for a known path under every method but those it takes. */
export function refuseMethod(allowed: string) {
  return function answerMethodNotAllowed(): Response {
    const error = new ApiError('method_not_allowed', `This path takes ${allowed}.`)
    const response = errorResponse(error)
    response.headers.set('allow', allowed)
    return response
  }
}

type FailureEvent =
  | 'backend_refused_token'
  | 'backend_answer_invalid'
  | 'backend_unreachable'
  | 'object_unreachable'
  | 'settings_invalid'
  | 'unexpected_error'
  | 'usage_record_conflict'
  | 'usage_record_late'
  | 'usage_record_parked'

/** One JSON line about a failure that somebody should look at. */
export function logFailure(
  deps: AppDeps,
  event: FailureEvent,
  cause: unknown,
  details: Readonly<Record<string, string | number>> = {},
): void {
  const reason = cause instanceof Error ? { error: cause.name, message: cause.message } : {}
  deps.log(JSON.stringify({ event, ...details, ...reason }))
}
