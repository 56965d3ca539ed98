import { strict as assert } from 'node:assert'
import type { CachedPrefix, Model } from '../model/model.ts'
import { Scheduler, type SchedulerLimits } from './scheduler.ts'

/**
 * One of the model's devices as the engine sees it: who is in its steps, and what its cache keeps. A
 * sequence stays on its device, and shares pages with those there alone.
 */
export interface Home {
  /** Number of the device. */
  readonly index: number
  readonly scheduler: Scheduler
  /** What the scheduler knows by name. */
  readonly prefixes: Map<string, CachedPrefix>
}

/** A home for each device. Places and tokens of a step are shared out; any of them may queue them all. */
export function openHomes(
  limits: SchedulerLimits,
  model: Pick<Model, 'deviceCount' | 'capacity'>,
): readonly Home[] {
  const count = model.deviceCount
  const runningMax = Math.ceil(limits.runningMax / count)
  const stepTokensMax = Math.max(2 * runningMax, Math.floor(limits.stepTokensMax / count))
  return Array.from({ length: count }, (_, index) => ({
    index,
    scheduler: new Scheduler({ ...limits, runningMax, stepTokensMax }, model.capacity(index)),
    prefixes: new Map(),
  }))
}

/**
 * Where a prompt can begin to be answered first: where there is a place for it, and then where the
 * least is to be taken in before its first token, its own beginning among it unless that is kept
 * there. Of homes alike the one with most free pages.
 */
export function bestHome(
  homes: readonly Home[],
  prompt: { readonly tokens: number; readonly pageKeys: readonly string[] },
  pageTokens: number,
): Home {
  const rated = homes.map((home) => {
    const { scheduler } = home
    const cached = scheduler.cachedPages(prompt.pageKeys, prompt.tokens)
    const pages = Math.ceil((prompt.tokens + 1) / pageTokens) - cached
    const hasPlace = scheduler.placesLeft > 0 && pages <= scheduler.pagesAvailable
    const ahead = scheduler.tokensAhead + prompt.tokens - cached * pageTokens
    return { home, rating: [hasPlace ? 0 : 1, ahead, -scheduler.pagesAvailable] }
  })
  const best = rated.toSorted((a, b) => firstDifference(a.rating, b.rating))[0]
  assert(best !== undefined, 'a model has at least one device')
  return best.home
}

function firstDifference(a: readonly number[], b: readonly number[]): number {
  return a.map((value, i) => value - (b[i] ?? 0)).find((difference) => difference !== 0) ?? 0
}
