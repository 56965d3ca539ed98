import type { AppContext, AppDeps } from '../context.ts'
import type { Pool } from '../env.ts'
import { askPool } from '../upstream/record-lookup.ts'
import { release } from './admit.ts'
import type { Admitted } from './admit.ts'

/** A backend that is starting again answers within these; all of them in what `waitUntil` gives. */
const ASK_AFTER_MS = [0, 1_000, 4_000, 15_000]

/**
 * Gives back what was reserved for a request whose call to the backend broke before any answer, as
 * soon as the backend says that it has never seen it; having said so, it never takes it any more.
 * Where it has, its record settles. Where nobody can be asked, the tenant's object asks later.
 */
export async function resolveDoubt(
  c: AppContext,
  pool: Pool,
  admitted: Admitted,
  deps: AppDeps,
): Promise<void> {
  // Another engine can be asked nothing; what it may have made, nobody was shown or will be.
  if (pool.kind === 'openai') return await release(c, admitted, 'backend_unreachable', deps)
  const { requestId } = c.get('trace')
  for (const afterMs of ASK_AFTER_MS) {
    await scheduler.wait(afterMs)
    const answer = await askPool(requestId, pool, { settings: c.get('settings'), ...deps })
    if (answer === null) continue
    if (answer.kind === 'unknown') await release(c, admitted, 'backend_unreachable', deps)
    return
  }
}
