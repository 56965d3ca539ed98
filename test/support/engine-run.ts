import { strict as assert } from 'node:assert'
import { Engine, type EngineModel } from '../../gpu-backend/src/engine/engine.ts'
import type {
  EndReason,
  EngineStats,
  GenerationRequest,
} from '../../gpu-backend/src/engine/protocol.ts'
import type { Constraints } from '../../gpu-backend/src/grammar/constraint.ts'
import { seededRandom } from '../../gpu-backend/src/engine/random.ts'
import type { SchedulerLimits } from '../../gpu-backend/src/engine/scheduler.ts'
import type { Speculation } from '../../gpu-backend/src/engine/speculation.ts'

/** What a request is asked with; the rest is usual. */
export type Asked = Pick<GenerationRequest, 'id' | 'prompt' | 'outputTokensMax'> &
  Partial<GenerationRequest>

export interface Answered {
  readonly tokens: number[]
  cachedTokens: number | null
  ended: EndReason | null
}

/** An engine whose answers are collected, and whose time is told. */
export class EngineRun {
  readonly answers = new Map<number, Answered>()
  nowMs = 0
  readonly #engine: Engine
  #open = 0

  constructor(
    model: EngineModel,
    limits: SchedulerLimits,
    speculation: Speculation | null = null,
    constraints: Constraints | null = null,
  ) {
    this.#engine = new Engine({
      model,
      limits,
      speculation,
      ...(constraints === null ? {} : { constraints }),
      random: seededRandom(1),
      now: () => this.nowMs,
      emit: (events) => {
        for (const event of events) {
          const answer = this.answer(event.id)
          if (event.kind === 'token') answer.tokens.push(event.token)
          else if (event.kind === 'started') answer.cachedTokens = event.cachedTokens
          else {
            assert(answer.ended === null, `request ${event.id} ends once`)
            answer.ended = event.reason
            this.#open -= 1
          }
        }
      },
    })
  }

  get stats(): EngineStats {
    return this.#engine.stats
  }

  /** Requests that have not ended. */
  get open(): number {
    return this.#open
  }

  submit(asked: Asked): void {
    this.answers.set(asked.id, { tokens: [], cachedTokens: null, ended: null })
    this.#open += 1
    this.#engine.submit({
      sampling: { temperature: 0, topP: 1, seed: null },
      topLogprobs: null,
      priority: 0,
      deadlineMs: null,
      cacheSalt: null,
      ...asked,
    })
  }

  cancel(id: number): void {
    this.#engine.cancel(id)
  }

  step(): void {
    this.#engine.step()
  }

  /** Steps until nothing is under way. */
  drain(): void {
    while (!this.#engine.idle) this.#engine.step()
  }

  /** Lets go of a request that has ended. */
  forget(id: number): void {
    assert(this.answer(id).ended !== null, `request ${id} has ended`)
    this.answers.delete(id)
  }

  answer(id: number): Answered {
    const answer = this.answers.get(id)
    assert(answer !== undefined, `request ${id} was asked`)
    return answer
  }
}
