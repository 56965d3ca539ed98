export const LOG_LEVELS = ['debug', 'info', 'warn', 'error', 'silent'] as const
export type LogLevel = (typeof LOG_LEVELS)[number]

/**
 * What a line may say beside its event: ids, counts, durations, codes. Never a prompt, an answer, a
 * key, a token or a body.
 */
export type LogFields = Readonly<Record<string, string | number | boolean | null>>

type LogCall = (event: string, fields?: LogFields) => void

export interface Log {
  readonly debug: LogCall
  readonly info: LogCall
  readonly warn: LogCall
  readonly error: LogCall
}

/** One JSON object a line, for whoever collects them; `now` gives Unix milliseconds. */
export function createLog(options: {
  readonly level: LogLevel
  readonly write: (line: string) => void
  readonly now: () => number
}): Log {
  const { level, write, now } = options
  const least = LOG_LEVELS.indexOf(level)
  const at =
    (name: Exclude<LogLevel, 'silent'>): LogCall =>
    (event, fields = {}) => {
      if (LOG_LEVELS.indexOf(name) < least) return
      const time = new Date(now()).toISOString()
      write(`${JSON.stringify({ time, level: name, event, ...fields })}\n`)
    }
  return { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') }
}

/** An error as fields: its kind, its code where it has one, and what it says of itself. */
export function errorFields(error: unknown): LogFields {
  if (!(error instanceof Error)) return { error: String(error) }
  const code = 'code' in error && typeof error.code === 'string' ? { code: error.code } : {}
  const cause = error.cause instanceof Error ? { cause: error.cause.message } : {}
  return { error: error.message, kind: error.name, ...code, ...cause }
}
