import type { AppContext, AppDeps } from '../context.ts'
import { tenantObject } from '../objects/stubs.ts'

/** A place of concurrency is kept by hearing of its request; reports may be missing. */
const HEARTBEAT_MS = 10_000

/** Keeps the caller's request its place until `body` has passed. */
export async function keepPlace<T>(
  c: AppContext,
  requestId: string,
  deps: AppDeps,
  body: Promise<T>,
): Promise<T> {
  const { tenantId } = c.get('caller')
  const beat = setInterval(() => {
    const beating = tenantObject(c.env, tenantId).heartbeat([requestId], deps.now())
    // A missed beat costs nothing; enough of them free a place early.
    void beating.catch(() => undefined)
  }, HEARTBEAT_MS)
  try {
    return await body
  } finally {
    clearInterval(beat)
  }
}
