import type { MiddlewareHandler } from 'hono'
import { ApiError } from '#protocol/errors.ts'
import type { AppDeps, AppEnv } from '../context.ts'
import { formatDuration } from '../rate-limit-headers.ts'

/** The longest until the platform counts anew; it does not say how much of it is over. */
const PERIOD_MS = 10_000
const JITTER = 0.2
/** Set by the platform, whatever the client sends. */
const ADDRESS_HEADER = 'cf-connecting-ip'

/** Ahead of everything that costs something: refuses an address that floods us. */
export function limitAddresses(deps: AppDeps): MiddlewareHandler<AppEnv> {
  return async function limitAddress(c, next) {
    const address = c.req.header(ADDRESS_HEADER)
    const passes = address === undefined || (await mayPass(c.env.FLOOD_BY_ADDRESS, address))
    if (!passes) throw flooding('this address', deps.random)
    await next()
  }
}

/** Behind `authenticate`, so that nobody is held back by another's guesses at its key. */
export function limitKeys(deps: AppDeps): MiddlewareHandler<AppEnv> {
  return async function limitKey(c, next) {
    if (!(await mayPass(c.env.FLOOD_BY_KEY, c.get('caller').keyId))) {
      throw flooding('this key', deps.random)
    }
    await next()
  }
}

/** The platform counts loosely and for each location; if it cannot, floods are let through. */
async function mayPass(limiter: RateLimit | undefined, key: string): Promise<boolean> {
  if (limiter === undefined) return true
  const outcome = await limiter.limit({ key }).catch(() => ({ success: true }))
  return outcome.success
}

function flooding(who: string, random: () => number): ApiError {
  const waitMs = PERIOD_MS * (1 + JITTER * random())
  return new ApiError(
    'rate_limit_exceeded',
    `Rate limit reached: far too many requests from ${who}. ` +
      `Please try again in ${formatDuration(waitMs)}.`,
    { retryAfterSeconds: waitMs / 1000 },
  )
}
