import { describe, expect, it } from 'vitest'
import {
  type CacheSize,
  priorityHeadStartMs,
  type ScheduledSegment,
  type ScheduledSequence,
  Scheduler,
  type SchedulerLimits,
  type StepPlan,
} from './scheduler.ts'

const pageTokens = 4
const limits: SchedulerLimits = {
  runningMax: 2,
  waitingMax: 2,
  waitingTokensMax: 100,
  stepTokensMax: 8,
}
const cache: CacheSize = { pageTokens, pagesMax: 100, prefixesMax: 8 }

const make = (changes: Partial<SchedulerLimits & CacheSize> = {}): Scheduler =>
  new Scheduler({ ...limits, ...changes }, { ...cache, ...changes })

const sequence = (
  id: number,
  promptTokens: number,
  changes: Partial<ScheduledSequence> = {},
): ScheduledSequence => ({
  id,
  promptTokens,
  outputTokensMax: 100,
  priority: 0,
  deadlineMs: null,
  pageKeys: [],
  ...changes,
})

/** Names of a text's pages: `shared` of them in common with the texts of the same name. */
const keysOf = (name: string, pages: number, shared = pages, own = 'own'): string[] =>
  Array.from({ length: pages }, (_, i) => `${name} ${i}${i < shared ? '' : ` ${own}`}`)

const at = (nowMs: number, promptTokensPerMs: number | null = null) => ({
  nowMs,
  promptTokensPerMs,
})

function submit(scheduler: Scheduler, ...sequences: ScheduledSequence[]): void {
  for (const each of sequences) expect(scheduler.submit(each, at(0))).toBe('accepted')
}

function step(scheduler: Scheduler, nowMs = 0): StepPlan {
  const plan = scheduler.schedule(at(nowMs))
  scheduler.commit()
  scheduler.audit()
  return plan
}

/** Segments as `id: offset + count`. */
const fed = (segments: readonly ScheduledSegment[]): string[] =>
  segments.map(({ id, offset, count, samples }) => `${id}: ${offset}+${count}${samples ? '!' : ''}`)

const fedBy = (scheduler: Scheduler, steps: number): string[][] =>
  Array.from({ length: steps }, () => fed(step(scheduler).segments))

describe('a step', () => {
  it('feeds a prompt in chunks of the budget and samples behind the last', () => {
    const scheduler = make()
    submit(scheduler, sequence(1, 18))
    expect(fedBy(scheduler, 4)).toEqual([['1: 0+8'], ['1: 8+8'], ['1: 16+2!'], ['1: 18+1!']])
  })

  it('has a token of everyone who generates, and prompts in what is left of one budget', () => {
    const scheduler = make()
    submit(scheduler, sequence(1, 1))
    step(scheduler)
    submit(scheduler, sequence(2, 20))
    expect(fedBy(scheduler, 2)).toEqual([
      ['1: 1+1!', '2: 0+7'],
      ['1: 2+1!', '2: 7+7'],
    ])
  })

  it('lets short prompts past a long one, which keeps half', () => {
    const scheduler = make({ runningMax: 4, waitingTokensMax: 200 })
    submit(scheduler, sequence(1, 100), sequence(2, 50), sequence(3, 3))
    expect(fedBy(scheduler, 2)).toEqual([
      ['1: 0+4', '2: 0+1', '3: 0+3!'],
      ['1: 4+4', '2: 1+3', '3: 3+1!'],
    ])
  })

  it('tries guesses in what prompts leave, within the answer and the page', () => {
    const scheduler = make()
    submit(scheduler, sequence(1, 1, { outputTokensMax: 6 }))
    step(scheduler)
    scheduler.offerDrafts(1, 9)
    // Positions 1 to 3 are in the page that position 1 is in.
    const [first] = scheduler.schedule(at(0)).segments
    expect(first).toMatchObject({ offset: 1, count: 3, drafts: 2, samples: true })
    scheduler.commit(new Map([[1, 2]]))
    expect(fed(step(scheduler).segments)).toEqual(['1: 4+1!'])
    scheduler.offerDrafts(1, 9)
    // Five are generated: the sixth is the last, and there is nothing to guess behind it.
    expect(scheduler.schedule(at(0)).segments[0]).toMatchObject({ offset: 5, count: 1, drafts: 0 })
  })

  it('goes on behind the guesses that were right', () => {
    const scheduler = make({ pageTokens: 16 })
    submit(scheduler, sequence(1, 1))
    step(scheduler)
    const offsets = [0, 2, 3, 1].map((accepted) => {
      scheduler.offerDrafts(1, 3)
      const [segment] = scheduler.schedule(at(0)).segments
      scheduler.commit(new Map([[1, accepted]]))
      scheduler.audit()
      return segment?.offset
    })
    expect(offsets).toEqual([1, 2, 5, 9])
    expect(fed(step(scheduler).segments)).toEqual(['1: 11+1!'])
    scheduler.schedule(at(0))
    expect(() => scheduler.commit(new Map([[1, 1]]))).toThrow('1 of 0 drafts were right')
  })

  it('catches a token beyond what was promised', () => {
    const scheduler = make()
    submit(scheduler, sequence(1, 1, { outputTokensMax: 2 }))
    fedBy(scheduler, 2)
    expect(() => step(scheduler)).toThrow('sequence 1 generated no more than it may')
  })

  it('refuses changes while it is under way', () => {
    const scheduler = make()
    scheduler.schedule(at(0))
    expect(() => scheduler.submit(sequence(1, 1), at(0))).toThrow(
      'the scheduled step was committed',
    )
    expect(() => scheduler.remove(1)).toThrow('the scheduled step was committed')
  })
})

describe('the queue', () => {
  it('takes exactly its places and its count, and refuses the one after', () => {
    const scheduler = make()
    const answers = [1, 2, 3, 4, 5].map((id) => scheduler.submit(sequence(id, 1), at(0)))
    expect(answers).toEqual(['accepted', 'accepted', 'accepted', 'accepted', 'queue_full'])
    step(scheduler)
    expect([scheduler.runningCount, scheduler.waitingCount]).toEqual([2, 2])
    scheduler.remove(1)
    submit(scheduler, sequence(6, 1))
  })

  it('takes exactly its tokens, or one prompt of any length', () => {
    const scheduler = make({ runningMax: 1, waitingMax: 9 })
    submit(scheduler, sequence(1, 300))
    step(scheduler)
    submit(scheduler, sequence(2, 60), sequence(3, 40))
    expect(scheduler.waitingTokens).toBe(100)
    expect(scheduler.submit(sequence(4, 1), at(0))).toBe('queue_full')
    scheduler.remove(2)
    submit(scheduler, sequence(5, 60))
  })

  it('gives a freed place to whoever has waited longest', () => {
    const scheduler = make()
    submit(scheduler, ...[1, 2, 3, 4].map((id) => sequence(id, 1)))
    step(scheduler)
    scheduler.remove(2)
    expect(step(scheduler).admitted.map(({ id }) => id)).toEqual([3])
  })

  it('forgets a sequence wherever it was', () => {
    const scheduler = make()
    submit(scheduler, ...[1, 2, 3].map((id) => sequence(id, 1)))
    step(scheduler)
    scheduler.remove(3)
    scheduler.remove(1)
    expect(() => scheduler.remove(1)).toThrow('sequence 1 runs or waits')
    expect(fedBy(scheduler, 1)).toEqual([['2: 1+1!']])
    expect(scheduler.pagesFree).toBe(99)
  })

  it('refuses what would not fit the cache even alone, counting what is fed', () => {
    const scheduler = make({ pagesMax: 3 })
    const longest = sequence(1, 5, { outputTokensMax: 8 })
    expect(scheduler.submit({ ...longest, outputTokensMax: 9 }, at(0))).toBe('too_long')
    expect(scheduler.submit(longest, at(0))).toBe('accepted')
    for (let i = 0; i < 8; i++) step(scheduler)
    expect(scheduler.pagesFree).toBe(0)
  })
})

describe('priority', () => {
  it('goes first, among equals by arrival', () => {
    const scheduler = make({ runningMax: 1, waitingMax: 9 })
    submit(scheduler, sequence(1, 1))
    step(scheduler)
    submit(scheduler, sequence(2, 1, { priority: -1 }), sequence(3, 1), sequence(4, 1))
    scheduler.remove(1)
    const order = [3, 4, 2].map((id) => {
      const [admission] = step(scheduler).admitted
      scheduler.remove(id)
      return admission?.id
    })
    expect(order).toEqual([3, 4, 2])
  })

  it('takes the place of a lower one, which comes back with what it had generated', () => {
    const scheduler = make({ runningMax: 1 })
    submit(scheduler, sequence(1, 3, { priority: -1 }))
    fedBy(scheduler, 2)
    submit(scheduler, sequence(2, 2, { outputTokensMax: 1 }))
    const plan = step(scheduler)
    expect([plan.preempted, plan.admitted.map(({ id }) => id)]).toEqual([[1], [2]])
    scheduler.remove(2)
    const back = step(scheduler)
    expect(back.admitted).toEqual([{ id: 1, prefix: null, cachedTokens: 0, again: true }])
    // Its prompt of three and both generated tokens, and the third generated behind them.
    expect(fed(back.segments)).toEqual(['1: 0+5!'])
  })

  it('does not take the place of an equal', () => {
    const scheduler = make({ runningMax: 1 })
    submit(scheduler, sequence(1, 3))
    step(scheduler)
    submit(scheduler, sequence(2, 2))
    expect(step(scheduler)).toMatchObject({ preempted: [], admitted: [] })
  })

  it('passes a lower one only for so long, however much there is of it', () => {
    const scheduler = make({ runningMax: 1, waitingMax: 50 })
    const stepMs = priorityHeadStartMs / 10
    scheduler.submit(sequence(0, 1, { priority: -1 }), at(0))
    // At each moment two come and one place is there: the queue of the higher only grows.
    const begun: number[] = []
    for (let moment = 0; moment < 30 && !begun.includes(0); moment++) {
      const nowMs = moment * stepMs
      for (const half of [1, 2]) {
        const id = 2 * moment + half
        expect(scheduler.submit(sequence(id, 1), at(nowMs))).toBe('accepted')
      }
      const [admission] = step(scheduler, nowMs).admitted
      if (admission === undefined) continue
      begun.push(admission.id)
      scheduler.remove(admission.id)
    }
    // Those that came within its head start, twenty, were before it, and none after.
    expect(begun).toEqual([...Array.from({ length: 20 }, (_, i) => i + 1), 0])
  })
})

describe('deadlines', () => {
  it('refuse at once what cannot begin to answer in time at the pace of prompts', () => {
    const scheduler = make()
    const late = sequence(1, 50, { deadlineMs: 1000 })
    expect(scheduler.submit(late, at(1000))).toBe('too_late')
    expect(scheduler.submit(late, at(0, 0.05))).toBe('too_late')
    expect(scheduler.submit(late, at(0, 0.051))).toBe('accepted')
    // What is before it counts, what comes behind it does not.
    expect(scheduler.submit(sequence(2, 50, { deadlineMs: 1500 }), at(0, 0.06))).toBe('too_late')
    expect(scheduler.submit({ ...late, id: 3, priority: 1 }, at(0, 0.06))).toBe('accepted')
  })

  it('end what is past them, wherever it is', () => {
    const scheduler = make({ runningMax: 1 })
    submit(scheduler, sequence(1, 3, { deadlineMs: 10 }), sequence(2, 3, { deadlineMs: 20 }))
    expect(step(scheduler, 9).expired).toEqual([])
    const plan = step(scheduler, 10)
    expect([plan.expired, fed(plan.segments)]).toEqual([[1], ['2: 0+3!']])
    expect(step(scheduler, 19).expired).toEqual([])
    expect(step(scheduler, 20).expired).toEqual([2])
  })

  it('end what waits and could not be in time even if it were next', () => {
    const scheduler = make({ runningMax: 1 })
    submit(scheduler, sequence(1, 3), sequence(2, 40, { deadlineMs: 100 }))
    const expired = (nowMs: number): readonly number[] => {
      const plan = scheduler.schedule(at(nowMs, 0.5))
      scheduler.commit()
      return plan.expired
    }
    expect([expired(19), expired(20)]).toEqual([[], [2]])
  })
})

describe('pages', () => {
  it('are taken as sequences grow', () => {
    const scheduler = make()
    submit(scheduler, sequence(1, 4))
    const free = Array.from({ length: 6 }, () => {
      step(scheduler)
      return scheduler.pagesFree
    })
    expect(free).toEqual([99, 98, 98, 98, 98, 97])
  })

  it('are taken from the last when none are free, who waits and comes back', () => {
    // Five pages are enough for two prompts of a page that grow by one, and not by two.
    const scheduler = make({ pagesMax: 5 })
    const four = { outputTokensMax: 16 }
    submit(scheduler, sequence(1, 4, four), sequence(2, 4, four))
    const preempted: number[] = []
    while (preempted.length === 0) preempted.push(...step(scheduler).preempted)
    expect(preempted).toEqual([2])
    expect(scheduler.waitingTokens).toBe(4 + 5)
    let steps = 0
    for (; scheduler.runningCount === 1; steps++) {
      const { segments } = step(scheduler)
      expect(segments.map(({ id }) => id)).toEqual([1])
      // The first has generated nine as well, and ends after sixteen.
      if (steps === 5) scheduler.remove(1)
    }
    expect(fed(step(scheduler).segments)).toEqual(['2: 0+8'])
  })

  it('let nobody in for whom there is no room beside the others', () => {
    const scheduler = make({ pagesMax: 6 })
    submit(
      scheduler,
      sequence(1, 8, { outputTokensMax: 9 }),
      sequence(2, 8, { outputTokensMax: 9 }),
    )
    expect(step(scheduler).admitted.map(({ id }) => id)).toEqual([1])
    expect(step(scheduler).admitted).toEqual([])
    scheduler.remove(1)
    expect(step(scheduler).admitted.map(({ id }) => id)).toEqual([2])
  })
})

describe('prefixes', () => {
  const text = (id: number, pages: number, changes: Partial<ScheduledSequence> = {}) =>
    sequence(id, pages * pageTokens + 1, { pageKeys: keysOf('a', pages), ...changes })

  /** Runs steps until the sequence has generated a token, and gives what was kept of it. */
  const begin = (scheduler: Scheduler, id: number): { found: number; kept: string[] } => {
    const kept: string[] = []
    let found = -1
    for (let steps = 0; steps < 50; steps++) {
      const { admitted, segments } = scheduler.schedule(at(0))
      kept.push(...scheduler.commit().map(({ key }) => key))
      scheduler.audit()
      found = admitted.find((admission) => admission.id === id)?.cachedTokens ?? found
      if (segments.some((segment) => segment.id === id && segment.samples)) break
    }
    return { found, kept }
  }

  it('are kept at a prompt’s last whole page and found by the next with the same beginning', () => {
    const scheduler = make()
    submit(scheduler, text(1, 3))
    expect(begin(scheduler, 1)).toEqual({ found: 0, kept: ['a 2'] })
    submit(scheduler, text(2, 3))
    expect(begin(scheduler, 2)).toEqual({ found: 12, kept: [] })
    expect(scheduler.pagesFree).toBe(100 - 3 - 2)
  })

  it('leave a token to feed, since logits come behind one', () => {
    const scheduler = make()
    submit(scheduler, sequence(1, 8, { pageKeys: keysOf('a', 2) }))
    expect(begin(scheduler, 1).kept).toEqual(['a 0', 'a 1'])
    submit(scheduler, sequence(2, 8, { pageKeys: keysOf('a', 2) }))
    expect(begin(scheduler, 2).found).toBe(4)
  })

  it('are kept where prompts part, once that is known', () => {
    const scheduler = make({ runningMax: 4 })
    const fork = (id: number) => text(id, 4, { pageKeys: keysOf('a', 4, 2, `of ${id}`) })
    submit(scheduler, fork(1))
    expect(begin(scheduler, 1)).toEqual({ found: 0, kept: ['a 3 of 1'] })
    submit(scheduler, fork(2))
    expect(begin(scheduler, 2)).toEqual({ found: 0, kept: ['a 1', 'a 3 of 2'] })
    submit(scheduler, fork(3))
    expect(begin(scheduler, 3)).toEqual({ found: 8, kept: ['a 3 of 3'] })
  })

  it('are kept now and then on a long way, where there is a place for them', () => {
    const spacious = make()
    submit(spacious, text(1, 13))
    expect(begin(spacious, 1).kept).toEqual(['a 3', 'a 7', 'a 11', 'a 12'])
    const narrow = make({ prefixesMax: 2 })
    submit(narrow, text(1, 13))
    expect(begin(narrow, 1).kept).toEqual(['a 3', 'a 7', 'a 12'])
  })

  it('are waited for while another is about to keep them', () => {
    const scheduler = make()
    submit(scheduler, text(1, 3), text(2, 3))
    expect(step(scheduler).admitted.map(({ id }) => id)).toEqual([1])
    expect(step(scheduler).admitted).toEqual([])
    expect(step(scheduler).admitted).toMatchObject([{ id: 2, cachedTokens: 12 }])
  })

  it('are not waited for when who was to keep them has gone', () => {
    const scheduler = make()
    submit(scheduler, text(1, 3), text(2, 3))
    step(scheduler)
    scheduler.remove(1)
    expect(step(scheduler).admitted).toMatchObject([{ id: 2, cachedTokens: 0 }])
  })

  it('are not waited for when who is to keep them comes later in order', () => {
    const scheduler = make()
    submit(scheduler, text(1, 5, { priority: -1 }))
    step(scheduler)
    submit(scheduler, text(2, 5))
    expect(step(scheduler).admitted).toMatchObject([{ id: 2, cachedTokens: 0 }])
  })

  it('hold nobody else up who waits behind', () => {
    const scheduler = make()
    submit(scheduler, text(1, 5), text(2, 5), sequence(3, 2))
    expect(step(scheduler).admitted.map(({ id }) => id)).toEqual([1, 3])
  })

  it('follow the answer page by page, the latest alone', () => {
    const scheduler = make()
    const pageKeys = keysOf('a', 9)
    submit(scheduler, sequence(1, 3, { pageKeys }))
    const keeps = Array.from({ length: 10 }, () => {
      scheduler.schedule(at(0))
      return scheduler.commit()
    }).flat()
    expect(keeps).toEqual([
      { id: 1, key: 'a 0', dropped: [] },
      { id: 1, key: 'a 1', dropped: ['a 0'] },
      { id: 1, key: 'a 2', dropped: ['a 1'] },
    ])
    scheduler.remove(1)
    scheduler.audit()
    // The next turn: prompt, answer and what the user says to it.
    submit(scheduler, sequence(2, 20, { pageKeys }))
    expect(step(scheduler).admitted).toMatchObject([{ cachedTokens: 12 }])
  })

  it('bring a preempted sequence back without computing everything again', () => {
    const scheduler = make({ runningMax: 1 })
    submit(scheduler, sequence(1, 6, { priority: -1, pageKeys: keysOf('a', 9) }))
    for (let i = 0; i < 8; i++) step(scheduler)
    scheduler.offerDrafts(1, 3)
    submit(scheduler, sequence(2, 2))
    expect(step(scheduler).preempted).toEqual([1])
    scheduler.remove(2)
    const back = step(scheduler)
    expect(back.admitted).toEqual([{ id: 1, prefix: 'a 2', cachedTokens: 12, again: true }])
    // What had been guessed for it is forgotten with its place.
    expect(fed(back.segments)).toEqual(['1: 12+1!'])
  })

  it('come back from elsewhere into room that nobody who runs has or was promised', () => {
    const scheduler = make({ pagesMax: 6, prefixesMax: 2 })
    const names = keysOf('a', 3)
    expect(scheduler.adopt('a 1', 2)).toEqual([])
    expect(scheduler.adopt('b 0', 1)).toEqual([])
    expect([scheduler.cachedPages(names, 12), scheduler.cachedPages(names, 8)]).toEqual([2, 0])
    scheduler.audit()
    // The longest unused makes way for a place, and more of them for pages.
    expect(scheduler.adopt('c 0', 1)).toEqual(['a 1'])
    expect(scheduler.adopt('d 4', 5)).toEqual(['b 0'])
    scheduler.disown('d 4')
    expect(scheduler.pagesFree).toBe(5)
    submit(scheduler, sequence(1, 10, { outputTokensMax: 3 }))
    step(scheduler)
    expect(scheduler.adopt('e 4', 4)).toBeNull()
    // The page it was promised is the one that 'c 0' has.
    expect(scheduler.adopt('e 3', 3)).toEqual([])
    expect([scheduler.pagesFree, scheduler.pagesAvailable]).toEqual([0, 3])
    expect(step(scheduler).dropped).toEqual(['c 0'])
  })

  it('make way for sequences, the one unused for longest first, before anybody is preempted', () => {
    const scheduler = make({ pagesMax: 12 })
    const named = (id: number, name: string) =>
      text(id, 2, { pageKeys: keysOf(name, 2), outputTokensMax: 3 })
    for (const [id, name] of [
      [1, 'a'],
      [2, 'b'],
      [3, 'a'],
      [4, 'c'],
    ] as const) {
      submit(scheduler, named(id, name))
      begin(scheduler, id)
      scheduler.remove(id)
    }
    expect(scheduler.pagesFree).toBe(12 - 6)
    submit(scheduler, sequence(5, 40, { outputTokensMax: 3 }))
    const dropped: string[] = []
    for (let i = 0; i < 5; i++) dropped.push(...step(scheduler).dropped)
    expect(dropped).toEqual(['b 1', 'a 1'])
  })

  it('stay while a sequence shares them, since dropping them would free nothing', () => {
    const scheduler = make({ pagesMax: 5 })
    submit(scheduler, text(1, 2, { outputTokensMax: 6 }), sequence(2, 3, { outputTokensMax: 9 }))
    expect(begin(scheduler, 1).kept).toEqual(['a 1'])
    const plans = Array.from({ length: 4 }, () => step(scheduler))
    expect(plans.flatMap(({ dropped }) => dropped)).toEqual([])
    expect(plans.flatMap(({ preempted }) => preempted)).toEqual([2])
    expect(scheduler.pagesFree).toBe(1)
  })

  it('make way for new ones when there is no place left', () => {
    const scheduler = make({ prefixesMax: 2 })
    const kept = ['a', 'b', 'c'].map((name, id) => {
      submit(scheduler, text(id, 2, { pageKeys: keysOf(name, 2) }))
      scheduler.schedule(at(0))
      const keeps = [...scheduler.commit()]
      scheduler.remove(id)
      return keeps
    })
    expect(kept).toEqual([
      [{ id: 0, key: 'a 1', dropped: [] }],
      [{ id: 1, key: 'b 1', dropped: [] }],
      [{ id: 2, key: 'c 1', dropped: ['a 1'] }],
    ])
  })

  it('are not there where there are no places for them', () => {
    const scheduler = make({ prefixesMax: 0 })
    submit(scheduler, text(1, 3))
    expect(begin(scheduler, 1).kept).toEqual([])
    submit(scheduler, text(2, 3))
    expect(begin(scheduler, 2).found).toBe(0)
  })
})
