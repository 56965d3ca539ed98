/**
 * Every refusal and failure the API can answer with. One code, one status, one `type`: clients
 * match on all three, so the table is closed.
 */
export type ErrorCode =
  | 'invalid_request_error'
  | 'invalid_parameter'
  | 'model_not_found'
  | 'context_length_exceeded'
  | 'invalid_api_key'
  | 'invalid_service_token'
  | 'insufficient_balance'
  | 'permission_denied'
  | 'not_found'
  | 'method_not_allowed'
  | 'request_too_large'
  | 'rate_limit_exceeded'
  | 'internal_server_error'
  | 'server_is_overloaded'
  | 'timeout'

interface ErrorKind {
  readonly status: number
  readonly type: string
}

const invalidRequest = 'invalid_request_error'

export const ERROR_KINDS: Readonly<Record<ErrorCode, ErrorKind>> = {
  invalid_request_error: { status: 400, type: invalidRequest },
  invalid_parameter: { status: 422, type: invalidRequest },
  model_not_found: { status: 400, type: invalidRequest },
  context_length_exceeded: { status: 400, type: invalidRequest },
  invalid_api_key: { status: 401, type: 'authentication_error' },
  invalid_service_token: { status: 401, type: 'authentication_error' },
  insufficient_balance: { status: 402, type: 'insufficient_balance' },
  permission_denied: { status: 403, type: 'permission_error' },
  not_found: { status: 404, type: invalidRequest },
  method_not_allowed: { status: 405, type: invalidRequest },
  request_too_large: { status: 413, type: invalidRequest },
  rate_limit_exceeded: { status: 429, type: 'rate_limit_error' },
  internal_server_error: { status: 500, type: 'server_error' },
  server_is_overloaded: { status: 503, type: 'server_error' },
  timeout: { status: 504, type: 'server_error' },
}

/** The OpenAI family's error body. All four keys are always there. */
export interface ErrorEnvelope {
  readonly error: {
    readonly message: string
    readonly type: string
    readonly param: string | null
    readonly code: ErrorCode
  }
}

export interface ApiErrorOptions extends ErrorOptions {
  /** The request field at fault, as a path: `messages[2].content`. */
  readonly param?: string
  /** Seconds until a retry makes sense. Sent with every 429 and 503. */
  readonly retryAfterSeconds?: number
}

/** A refusal or failure on its way to the client. `message` is shown to the client as it is. */
export class ApiError extends Error {
  readonly code: ErrorCode
  readonly param: string | null
  readonly retryAfterSeconds: number | null

  constructor(code: ErrorCode, message: string, options: ApiErrorOptions = {}) {
    super(message, options)
    this.name = 'ApiError'
    this.code = code
    this.param = options.param ?? null
    this.retryAfterSeconds = options.retryAfterSeconds ?? null
  }

  get status(): number {
    return ERROR_KINDS[this.code].status
  }

  toEnvelope(): ErrorEnvelope {
    const { message, param, code } = this
    return { error: { message, type: ERROR_KINDS[code].type, param, code } }
  }

  /**
   * The headers that belong to this error, `retry-after` in whole seconds (at least 1) and
   * `retry-after-ms`. Waits over a minute also say `x-should-retry: false`, since the OpenAI
   * client ignores a longer `retry-after` and would come back at once.
   */
  toHeaders(): Record<string, string> {
    if (this.retryAfterSeconds === null) return {}
    const seconds = Math.max(1, this.retryAfterSeconds)
    return {
      'retry-after': String(Math.ceil(seconds)),
      'retry-after-ms': String(Math.ceil(seconds * 1000)),
      ...(seconds > 60 ? { 'x-should-retry': 'false' } : {}),
    }
  }
}

/** One error as a server-sent event, for a stream whose status line has already gone out. */
export function errorEvent(error: ApiError): string {
  return `data: ${JSON.stringify(error.toEnvelope())}\n\n`
}
