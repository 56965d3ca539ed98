import { strict as assert } from 'node:assert'

export interface SchedulerLimits {
  /** Sequences that take part in a step. */
  readonly runningMax: number
  /** Sequences that wait for one of those places. */
  readonly waitingMax: number
  /** Prompt tokens a step takes in, over all sequences; each generated token comes on top. */
  readonly prefillTokensPerStep: number
}

export interface ScheduledSequence {
  readonly id: number
  readonly promptTokens: number
  readonly outputTokensMax: number
}

/** What one sequence feeds in a step: `count` tokens from position `offset`. */
export interface ScheduledSegment {
  readonly id: number
  readonly offset: number
  readonly count: number
  /** Whether a token is sampled behind it: a generated token's step, or a prompt's last chunk. */
  readonly samples: boolean
}

interface SequenceState extends ScheduledSequence {
  /** Tokens whose rows are in the model's cache. */
  computed: number
  generated: number
}

export type SubmitStatus = 'accepted' | 'queue_full'
export type CancelStatus = 'was_waiting' | 'was_running' | 'unknown'

/**
 * Who takes part in the next step. First come, first served: a bounded queue, a bounded running set,
 * prompts in chunks so that a long one does not hold up the tokens of the others. Knows lengths only,
 * no tokens, no clock, no device. `schedule` and `commit` alternate; everything else goes between
 * a `commit` and the next `schedule`. Its invariants are asserted at every step.
 */
export class Scheduler {
  readonly limits: SchedulerLimits
  readonly #waiting = new Map<number, SequenceState>()
  readonly #running = new Map<number, SequenceState>()
  #scheduled: readonly ScheduledSegment[] | null = null

  constructor(limits: SchedulerLimits) {
    for (const [name, value] of Object.entries(limits) as [string, number][]) {
      const least = name === 'waitingMax' ? 0 : 1
      assert(Number.isSafeInteger(value) && value >= least, `${name} ${value} is at least ${least}`)
    }
    this.limits = limits
  }

  get runningCount(): number {
    return this.#running.size
  }

  get waitingCount(): number {
    return this.#waiting.size
  }

  submit(sequence: ScheduledSequence): SubmitStatus {
    this.#assertBetweenSteps()
    const { id, promptTokens, outputTokensMax } = sequence
    assert(!this.#waiting.has(id) && !this.#running.has(id), `sequence ${id} is new`)
    assert(promptTokens >= 1 && outputTokensMax >= 1, `sequence ${id} has a prompt and may answer`)
    // Places nobody has taken yet count as room: a burst into an idle engine fills those first.
    const room = this.limits.runningMax + this.limits.waitingMax
    if (this.#running.size + this.#waiting.size >= room) return 'queue_full'
    this.#waiting.set(id, { ...sequence, computed: 0, generated: 0 })
    return 'accepted'
  }

  /** The next in the queue, if a place is free. Stays where it is until `admit`. */
  nextAdmissible(): ScheduledSequence | null {
    if (this.#running.size >= this.limits.runningMax) return null
    const [first] = this.#waiting.values()
    return first ?? null
  }

  /** Moves the head of the queue into the running set. */
  admit(id: number): void {
    this.#assertBetweenSteps()
    const head = this.nextAdmissible()
    assert(head !== null && head.id === id, `sequence ${id} is next and has a place`)
    const state = this.#waiting.get(id)
    assert(state !== undefined, `sequence ${id} waits`)
    this.#waiting.delete(id)
    this.#running.set(id, state)
  }

  /** Takes a sequence out: it is finished, or nobody wants it any more. */
  remove(id: number): CancelStatus {
    this.#assertBetweenSteps()
    if (this.#waiting.delete(id)) return 'was_waiting'
    return this.#running.delete(id) ? 'was_running' : 'unknown'
  }

  /**
   * The next step's segments, at most one a sequence: everyone who is generating, then prompt chunks
   * in order of arrival until the budget is used up. Empty when nothing runs.
   */
  schedule(): readonly ScheduledSegment[] {
    this.#assertBetweenSteps()
    this.#assertInvariants()
    const segments: ScheduledSegment[] = []
    for (const { id, computed, promptTokens } of this.#running.values()) {
      if (computed >= promptTokens) segments.push({ id, offset: computed, count: 1, samples: true })
    }
    let budget = this.limits.prefillTokensPerStep
    for (const { id, computed, promptTokens } of this.#running.values()) {
      const count = Math.min(budget, promptTokens - computed)
      if (count <= 0) continue
      budget -= count
      segments.push({ id, offset: computed, count, samples: computed + count === promptTokens })
    }
    this.#scheduled = segments
    return segments
  }

  /** The scheduled step has run: its rows are in the cache, and each sampling segment has a token. */
  commit(): void {
    const segments = this.#scheduled
    assert(segments !== null, 'a step was scheduled')
    this.#scheduled = null
    for (const { id, count, samples } of segments) {
      const state = this.#running.get(id)
      assert(state !== undefined, `sequence ${id} ran and is still running`)
      state.computed += count
      if (samples) state.generated += 1
    }
    this.#assertInvariants()
  }

  /** Whether the sequence has generated all it may. */
  isExhausted(id: number): boolean {
    const state = this.#running.get(id)
    assert(state !== undefined, `sequence ${id} runs`)
    return state.generated >= state.outputTokensMax
  }

  #assertBetweenSteps(): void {
    assert(this.#scheduled === null, 'the scheduled step was committed')
  }

  #assertInvariants(): void {
    const { runningMax, waitingMax } = this.limits
    assert(this.#running.size <= runningMax, `at most ${runningMax} run`)
    assert(
      this.#running.size + this.#waiting.size <= runningMax + waitingMax,
      `at most ${runningMax} run and ${waitingMax} wait`,
    )
    for (const state of this.#waiting.values()) {
      assert(!this.#running.has(state.id), `sequence ${state.id} is in one list`)
      assert(state.computed === 0 && state.generated === 0, `sequence ${state.id} has not begun`)
    }
    for (const {
      id,
      computed,
      generated,
      promptTokens,
      outputTokensMax,
    } of this.#running.values()) {
      assert(generated <= outputTokensMax, `sequence ${id} generated no more than it may`)
      // The latest token has been sampled but not been fed yet.
      const fed =
        generated === 0 ? computed <= promptTokens : computed === promptTokens + generated - 1
      assert(fed, `sequence ${id} has fed exactly what it has`)
    }
  }
}
