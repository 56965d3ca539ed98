import { strict as assert } from 'node:assert'
import { describe, expect, it } from 'vitest'
import { seededRandom } from './random.ts'
import {
  type CacheSize,
  type Keep,
  type ScheduledSegment,
  Scheduler,
  type SchedulerLimits,
  type StepPlan,
} from './scheduler.ts'

/** A page, known by its identity. */
type Page = object

interface Text {
  readonly keys: readonly string[]
  readonly promptTokens: number
  readonly outputTokensMax: number
  readonly deadlineMs: number | null
  generated: number
  /** null while it waits. */
  place: { fed: number; readonly pages: Page[] } | null
}

/**
 * The scheduler's twin: keeps the model's side of the books in its own way, and predicts of every plan
 * what it may hold.
 */
class Auditor {
  readonly texts = new Map<number, Text>()
  readonly kept = new Map<string, readonly Page[]>()
  readonly #limits: SchedulerLimits
  readonly #cache: CacheSize

  constructor(limits: SchedulerLimits, cache: CacheSize) {
    this.#limits = limits
    this.#cache = cache
  }

  get pagesFree(): number {
    const held = [...this.texts.values()].flatMap(({ place }) => place?.pages ?? [])
    return this.#cache.pagesMax - new Set([...held, ...[...this.kept.values()].flat()]).size
  }

  take(plan: StepPlan, nowMs: number): void {
    for (const id of plan.expired) {
      const { deadlineMs } = this.text(id)
      assert(deadlineMs !== null && deadlineMs <= nowMs, `${id} is past its deadline`)
      this.texts.delete(id)
    }
    for (const key of plan.dropped) assert(this.kept.delete(key), 'what is dropped was kept')
    for (const id of plan.preempted) {
      assert(this.text(id).place !== null, `${id} ran`)
      this.text(id).place = null
    }
    for (const { id, prefix, cachedTokens } of plan.admitted) {
      const text = this.text(id)
      assert(text.place === null, `${id} waited`)
      const pages = prefix === null ? [] : (this.kept.get(prefix) ?? [])
      assert.equal(cachedTokens, pages.length * this.#cache.pageTokens)
      assert(prefix === null || text.keys[pages.length - 1] === prefix, 'it begins like that')
      text.place = { fed: cachedTokens, pages: [...pages] }
    }
    assert(this.running().length <= this.#limits.runningMax)
    this.#takeSegments(plan.segments)
    assert(this.pagesFree >= 0, 'the step has its pages')
  }

  /** `accepted`: guesses that were right. */
  commit(segments: readonly ScheduledSegment[], accepted: ReadonlyMap<number, number>): void {
    for (const { id, offset, count, drafts, samples } of segments) {
      const text = this.text(id)
      assert(text.place !== null)
      const right = accepted.get(id) ?? 0
      text.place.fed = offset + count - drafts + right
      if (samples) text.generated += 1 + right
      text.place.pages.splice(Math.ceil(text.place.fed / this.#cache.pageTokens))
    }
  }

  keep({ id, key, dropped }: Keep): void {
    for (const name of dropped) assert(this.kept.delete(name), 'what is dropped was kept')
    const { place, keys } = this.text(id)
    assert(place !== null && place.fed % this.#cache.pageTokens === 0, 'whole pages are kept')
    assert.equal(keys[place.pages.length - 1], key)
    assert(!this.kept.has(key), 'nothing is kept twice')
    this.kept.set(key, [...place.pages])
    assert(this.kept.size <= this.#cache.prefixesMax, 'there is a place')
  }

  text(id: number): Text {
    const text = this.texts.get(id)
    assert(text !== undefined, `${id} is open`)
    return text
  }

  running(): number[] {
    return [...this.texts].flatMap(([id, { place }]) => (place === null ? [] : [id]))
  }

  #takeSegments(segments: readonly ScheduledSegment[]): void {
    const byId = new Map(segments.map((segment) => [segment.id, segment]))
    assert.equal(byId.size, segments.length, 'one segment each')
    const tokens = segments.reduce((total, { count }) => total + count, 0)
    assert(tokens <= this.#limits.stepTokensMax, 'within the budget')
    assert(segments.length > 0 || this.texts.size === 0, 'work is not left lying')
    let prompts = 0
    let promptTokens = 0
    for (const id of this.running()) {
      const { place, promptTokens: own, generated, outputTokensMax } = this.text(id)
      assert(place !== null)
      const left = own + generated - place.fed
      const segment = byId.get(id)
      if (left > 1) {
        prompts += 1
        promptTokens += segment?.count ?? 0
      } else {
        assert(segment !== undefined, `${id} generates a token in every step`)
      }
      if (segment === undefined) continue
      const { offset, count, drafts, samples, prefill } = segment
      assert.equal(offset, place.fed)
      assert(count - drafts >= 1 && count - drafts <= left, 'feeds what is known')
      assert.equal(samples, count - drafts === left, 'samples behind the last')
      assert.equal(prefill, left > 1 || generated === 0)
      assert(drafts === 0 || generated + 1 + drafts <= outputTokensMax, 'guesses within the answer')
      const pages = Math.ceil((offset + count) / this.#cache.pageTokens)
      while (place.pages.length < pages) place.pages.push({})
    }
    assert(
      segments.every(({ id }) => this.text(id).place !== null),
      'who is in the step runs',
    )
    assert(prompts === 0 || promptTokens > 0, 'prompts go on beside answers')
  }
}

interface World {
  readonly limits: SchedulerLimits
  readonly cache: CacheSize
  readonly arrivals: number
}

/** What happened, and how much of what is worth having happened. */
interface Story {
  readonly log: string
  readonly preempted: number
  readonly hits: number
  readonly dropped: number
  readonly statuses: ReadonlyMap<string, number>
}

/** Arrivals, cancellations, failures, guesses and the passing of time, all from one seed. */
function live(seed: number, { limits, cache, arrivals }: World): Story {
  const random = seededRandom(seed)
  const pick = (count: number): number => Math.floor(random() * count)
  const scheduler = new Scheduler(limits, cache)
  const auditor = new Auditor(limits, cache)
  const statuses = new Map<string, number>()
  const log: unknown[] = []
  const story = { preempted: 0, hits: 0, dropped: 0 }
  let nowMs = 0

  const arrive = (id: number): void => {
    const promptTokens = 1 + pick(random() < 0.2 ? 60 : 20)
    const name = `${pick(3)}`
    const shared = pick(6)
    const keys = Array.from(
      { length: 40 },
      (_, i) => `${name} ${i}${i < shared ? '' : ` of ${id}`}`,
    )
    const deadlineMs = random() < 0.2 ? nowMs + pick(60) : null
    const text = { promptTokens, outputTokensMax: 1 + pick(20), deadlineMs }
    const pageKeys = random() < 0.8 ? keys : []
    const sequence = { id, ...text, priority: pick(3) - 1, pageKeys }
    const status = scheduler.submit(sequence, { nowMs, promptTokensPerMs: null })
    statuses.set(status, (statuses.get(status) ?? 0) + 1)
    if (status === 'accepted') {
      auditor.texts.set(id, { ...text, keys: pageKeys, generated: 0, place: null })
    }
  }

  const leave = (id: number): void => {
    scheduler.remove(id)
    auditor.texts.delete(id)
  }

  const step = (): void => {
    for (const id of auditor.running()) if (random() < 0.3) scheduler.offerDrafts(id, pick(5))
    const plan = scheduler.schedule({ nowMs, promptTokensPerMs: null })
    log.push(plan)
    auditor.take(plan, nowMs)
    const accepted = new Map(plan.segments.map(({ id, drafts }) => [id, pick(drafts + 1)]))
    const keeps = scheduler.commit(accepted)
    auditor.commit(plan.segments, accepted)
    for (const keep of keeps) auditor.keep(keep)
    story.preempted += plan.preempted.length
    story.dropped += plan.dropped.length
    story.hits += plan.admitted.filter(({ prefix }) => prefix !== null).length
    for (const { id, samples } of plan.segments) {
      const { generated, outputTokensMax } = auditor.text(id)
      // The end of an answer, or a request that fails by itself: the same to the scheduler.
      if (generated >= outputTokensMax || (samples && random() < 0.02)) leave(id)
    }
    scheduler.audit()
    assert.equal(scheduler.pagesFree, auditor.pagesFree, 'both count the same pages')
    assert.equal(scheduler.runningCount, auditor.running().length)
  }

  for (let id = 0; id < arrivals || auditor.texts.size > 0; id++) {
    assert(id < arrivals + 5000, 'everyone comes to an end')
    if (id < arrivals && random() < 0.6) arrive(id)
    if (random() < 0.08) {
      const [victim] = [...auditor.texts.keys()].slice(pick(auditor.texts.size))
      if (victim !== undefined) leave(victim)
    }
    nowMs += pick(10)
    step()
  }
  assert.deepEqual([scheduler.runningCount, scheduler.waitingCount], [0, 0])
  return { ...story, log: JSON.stringify(log), statuses }
}

function worldOf(seed: number): World {
  const random = seededRandom(seed ^ 0x5eed)
  const pick = (count: number): number => Math.floor(random() * count)
  const runningMax = 1 + pick(6)
  return {
    limits: {
      runningMax,
      waitingMax: pick(8),
      waitingTokensMax: 1 + pick(200),
      stepTokensMax: 2 * runningMax + pick(16),
    },
    cache: { pageTokens: 4, pagesMax: 5 + pick(30), prefixesMax: pick(7) },
    arrivals: 250,
  }
}

/** More of them for a long run. */
const seeds = Number(process.env['SLUICE_SEEDS'] ?? 60)

describe('under random arrivals, cancellations, failures and guesses', () => {
  it(
    'every plan is as the twin predicts, and everyone comes to an end',
    { timeout: 5000 + 100 * seeds },
    () => {
      const total = { preempted: 0, hits: 0, dropped: 0 }
      const seen = new Set<string>()
      for (let seed = 1; seed <= seeds; seed++) {
        try {
          const story = live(seed, worldOf(seed))
          total.preempted += story.preempted
          total.hits += story.hits
          total.dropped += story.dropped
          for (const status of story.statuses.keys()) seen.add(status)
        } catch (cause) {
          throw new Error(`seed ${seed}`, { cause })
        }
      }
      // What was to be tried has been: storms that never came prove nothing.
      expect(total.preempted).toBeGreaterThan(500)
      expect(total.hits).toBeGreaterThan(500)
      expect(total.dropped).toBeGreaterThan(500)
      expect(seen).toEqual(new Set(['accepted', 'queue_full', 'too_long', 'too_late']))
    },
  )

  it('a seed tells the same story again', () => {
    expect(live(7, worldOf(7)).log).toBe(live(7, worldOf(7)).log)
  })
})
