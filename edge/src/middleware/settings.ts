import type { MiddlewareHandler } from 'hono'
import type { AppEnv } from '../context.ts'
import { parseEnv } from '../env.ts'
import type { Env, Settings } from '../env.ts'

/**
 * Parses the Worker's variables on an isolate's first request and keeps the result. What is kept
 * is the value, never its promise: workerd does not let one request await another's promise. A bad
 * variable is not kept, so each request says so.
 */
export function loadSettings(): MiddlewareHandler<AppEnv> {
  const parsed = new WeakMap<Env, Settings>()
  return async function provideSettings(c, next) {
    const settings = parsed.get(c.env) ?? (await parseEnv(c.env))
    parsed.set(c.env, settings)
    c.set('settings', settings)
    await next()
  }
}
