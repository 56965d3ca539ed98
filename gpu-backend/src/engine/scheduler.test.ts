import { describe, expect, it } from 'vitest'
import { seededRandom } from './random.ts'
import { Scheduler, type ScheduledSegment, type SchedulerLimits } from './scheduler.ts'

const limits: SchedulerLimits = { runningMax: 2, waitingMax: 2, prefillTokensPerStep: 4 }

const sequence = (id: number, promptTokens: number, outputTokensMax = 100) => ({
  id,
  promptTokens,
  outputTokensMax,
})

function admitAll(scheduler: Scheduler): void {
  for (let next = scheduler.nextAdmissible(); next !== null; next = scheduler.nextAdmissible()) {
    scheduler.admit(next.id)
  }
}

function step(scheduler: Scheduler): readonly ScheduledSegment[] {
  admitAll(scheduler)
  const segments = scheduler.schedule()
  scheduler.commit()
  return segments
}

describe('Scheduler', () => {
  it('feeds a prompt in chunks of the budget and samples behind the last', () => {
    const scheduler = new Scheduler(limits)
    scheduler.submit(sequence(1, 10))
    expect([step(scheduler), step(scheduler), step(scheduler), step(scheduler)]).toEqual([
      [{ id: 1, offset: 0, count: 4, samples: false }],
      [{ id: 1, offset: 4, count: 4, samples: false }],
      [{ id: 1, offset: 8, count: 2, samples: true }],
      [{ id: 1, offset: 10, count: 1, samples: true }],
    ])
  })

  it('keeps generating for one while another prompt is taken in', () => {
    const scheduler = new Scheduler(limits)
    scheduler.submit(sequence(1, 1))
    step(scheduler)
    scheduler.submit(sequence(2, 9))
    expect(step(scheduler)).toEqual([
      { id: 1, offset: 1, count: 1, samples: true },
      { id: 2, offset: 0, count: 4, samples: false },
    ])
  })

  it('shares one step between prompts in order of arrival', () => {
    const scheduler = new Scheduler(limits)
    scheduler.submit(sequence(1, 3))
    scheduler.submit(sequence(2, 3))
    expect(step(scheduler)).toEqual([
      { id: 1, offset: 0, count: 3, samples: true },
      { id: 2, offset: 0, count: 1, samples: false },
    ])
  })

  it('takes exactly its places and its queue, and refuses the one after', () => {
    const scheduler = new Scheduler(limits)
    const answers = [1, 2, 3, 4, 5].map((id) => scheduler.submit(sequence(id, 1)))
    expect(answers).toEqual(['accepted', 'accepted', 'accepted', 'accepted', 'queue_full'])
    admitAll(scheduler)
    expect([scheduler.runningCount, scheduler.waitingCount]).toEqual([2, 2])
    scheduler.remove(1)
    expect(scheduler.submit(sequence(6, 1))).toBe('accepted')
  })

  it('gives a freed place to whoever has waited longest', () => {
    const scheduler = new Scheduler(limits)
    for (const id of [1, 2, 3, 4]) scheduler.submit(sequence(id, 1))
    step(scheduler)
    expect(scheduler.nextAdmissible()).toBeNull()
    expect(scheduler.remove(2)).toBe('was_running')
    expect(scheduler.nextAdmissible()?.id).toBe(3)
  })

  it('forgets a cancelled sequence wherever it was', () => {
    const scheduler = new Scheduler(limits)
    for (const id of [1, 2, 3]) scheduler.submit(sequence(id, 1))
    admitAll(scheduler)
    expect([scheduler.remove(3), scheduler.remove(1), scheduler.remove(1)]).toEqual([
      'was_waiting',
      'was_running',
      'unknown',
    ])
    expect(step(scheduler).map((segment) => segment.id)).toEqual([2])
  })

  it('says when a sequence has generated all it may', () => {
    const scheduler = new Scheduler(limits)
    scheduler.submit(sequence(1, 1, 2))
    step(scheduler)
    expect(scheduler.isExhausted(1)).toBe(false)
    step(scheduler)
    expect(scheduler.isExhausted(1)).toBe(true)
    // A third token would break what was promised, and is caught.
    expect(() => step(scheduler)).toThrow('sequence 1 generated no more than it may')
  })

  it('refuses changes while a step is under way', () => {
    const scheduler = new Scheduler(limits)
    scheduler.schedule()
    expect(() => scheduler.submit(sequence(1, 1))).toThrow('the scheduled step was committed')
    expect(() => scheduler.remove(1)).toThrow('the scheduled step was committed')
  })

  it('holds its invariants and finishes everyone under random arrivals and cancellations', () => {
    for (let seed = 1; seed <= 20; seed++) {
      const random = seededRandom(seed)
      const pick = (count: number): number => Math.floor(random() * count)
      const scheduler = new Scheduler({
        runningMax: 1 + pick(4),
        waitingMax: pick(4),
        prefillTokensPerStep: 1 + pick(8),
      })
      const open = new Map<number, { fed: number; promptTokens: number; outputTokensMax: number }>()
      for (let id = 0; id < 300 || open.size > 0; id++) {
        const wanted = sequence(id, 1 + pick(20), 1 + pick(6))
        if (id < 300 && scheduler.submit(wanted) === 'accepted') open.set(id, { ...wanted, fed: 0 })
        if (random() < 0.1) {
          const [victim] = [...open.keys()].slice(pick(open.size))
          if (victim !== undefined) {
            scheduler.remove(victim)
            open.delete(victim)
          }
        }
        const segments = step(scheduler)
        const prompts = segments.filter(
          (part) => part.offset < (open.get(part.id)?.promptTokens ?? 0),
        )
        const prefill = prompts.reduce((total, part) => total + part.count, 0)
        expect(prefill).toBeLessThanOrEqual(scheduler.limits.prefillTokensPerStep)
        for (const part of segments) {
          const state = open.get(part.id)
          expect(part.offset, `seed ${seed}`).toBe(state?.fed)
          if (state !== undefined) state.fed += part.count
          if (part.samples && scheduler.isExhausted(part.id)) {
            expect(state?.fed).toBe((state?.promptTokens ?? 0) + (state?.outputTokensMax ?? 0) - 1)
            scheduler.remove(part.id)
            open.delete(part.id)
          }
        }
      }
      expect([scheduler.runningCount, scheduler.waitingCount]).toEqual([0, 0])
    }
  })
})
