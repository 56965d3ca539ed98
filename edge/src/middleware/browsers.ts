import type { MiddlewareHandler } from 'hono'
import type { AppEnv } from '../context.ts'

const METHODS = 'GET, HEAD, POST, OPTIONS'
const PREFLIGHT_MAX_AGE_SECONDS = '86400'
const REQUEST_HEADERS = new Set([
  'authorization',
  'content-type',
  'x-api-key',
  'anthropic-version',
  'anthropic-beta',
  'last-event-id',
  'x-max-cost',
  'x-max-wait',
  'x-sluice-resumable',
])
/** The OpenAI and Anthropic clients send a family of these, which differs by version. */
const CLIENT_HEADER = /^x-stainless-[a-z-]{1,64}$/

/** Operators' and backends' paths are no business of a web page. */
const NOT_FOR_BROWSERS = /^\/(admin|internal)(\/|$)/

/**
 * Lets web pages of any origin call the API (the key travels in a header, never in a cookie) and
 * answers their preflights, which carry no key.
 */
export function allowBrowsers(): MiddlewareHandler<AppEnv> {
  return async function allowBrowser(c, next) {
    if (NOT_FOR_BROWSERS.test(c.req.path)) return next()
    if (c.req.method === 'OPTIONS') {
      const asked = c.req.header('access-control-request-headers') ?? ''
      return new Response(null, {
        status: 204,
        headers: {
          'access-control-allow-origin': '*',
          'access-control-allow-methods': METHODS,
          'access-control-allow-headers': allowedHeaders(asked).join(', '),
          'access-control-max-age': PREFLIGHT_MAX_AGE_SECONDS,
        },
      })
    }
    await next()
    c.res.headers.set('access-control-allow-origin', '*')
    // All of them: without credentials the wildcard means what it says.
    c.res.headers.set('access-control-expose-headers', '*')
    return undefined
  }
}

/** The known headers, and those of the asked-for ones that belong to a known family. */
function allowedHeaders(asked: string): string[] {
  const names = asked.split(',').map((name) => name.trim().toLowerCase())
  return [...REQUEST_HEADERS, ...names.filter((name) => CLIENT_HEADER.test(name))]
}
