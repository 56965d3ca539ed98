import type { MiddlewareHandler } from 'hono'
import { ApiError } from '#protocol/errors.ts'
import { equalInConstantTime, sha256 } from '../bytes.ts'
import type { AppEnv } from '../context.ts'
import { presentedKey } from './authenticate.ts'

/** Lets a request through with the operator's token and nothing else. */
export function requireAdminToken(): MiddlewareHandler<AppEnv> {
  return async function checkAdminToken(c, next) {
    const presented = presentedKey(c.req.raw.headers) ?? ''
    // Digests, so that the comparison tells neither the content nor the length of the token.
    const [given, wanted] = await Promise.all([
      sha256(presented),
      sha256(c.get('settings').adminToken),
    ])
    if (!equalInConstantTime(given, wanted)) {
      throw new ApiError('invalid_api_key', 'Authentication failed: the admin token is not valid.')
    }
    await next()
  }
}
