import { strict as assert } from 'node:assert'
import { ModelError, type Model, type Segment, type Sequence } from '../model/model.ts'
import type { EndReason, EngineEvent, GenerationRequest } from './protocol.ts'
import type { Random } from './random.ts'
import { createSampler, type Sampler } from './sampler.ts'
import { Scheduler, type ScheduledSegment, type SchedulerLimits } from './scheduler.ts'

/** The part of a model that generating text needs. */
export type EngineModel = Pick<Model, 'createSequence' | 'forward' | 'release'> & {
  readonly shape: Pick<Model['shape'], 'eosTokenId' | 'maxPositionEmbeddings' | 'vocabSize'>
}

export interface EngineOptions {
  readonly model: EngineModel
  readonly limits: SchedulerLimits
  /** Draws a seed for each request that brings none. */
  readonly random: Random
  /** Told at least once a step: before the model runs, which may take long, and after. */
  readonly emit: (events: readonly EngineEvent[]) => void
}

interface Generation {
  readonly request: GenerationRequest
  readonly sampler: Sampler
  /** null until the request has a place in the running set. */
  sequence: Sequence | null
  lastToken: number
  generated: number
}

/**
 * Continuous batching over a model: requests come and go between steps, and each step runs every
 * sequence that has something to feed. Synchronous; whoever drives it listens for messages between
 * two steps.
 */
export class Engine {
  readonly #model: EngineModel
  readonly #random: Random
  readonly #emit: (events: readonly EngineEvent[]) => void
  readonly #scheduler: Scheduler
  readonly #generations = new Map<number, Generation>()
  #events: EngineEvent[] = []

  constructor(options: EngineOptions) {
    this.#model = options.model
    this.#random = options.random
    this.#emit = options.emit
    this.#scheduler = new Scheduler(options.limits)
  }

  /** Whether a step would do nothing: no request under way and nothing to tell. */
  get idle(): boolean {
    return this.#generations.size === 0 && this.#events.length === 0
  }

  /** Queues a request. Every request ends in exactly one `finished` event. */
  submit(request: GenerationRequest): void {
    const { id, prompt, outputTokensMax, sampling, topLogprobs } = request
    const { maxPositionEmbeddings, vocabSize } = this.#model.shape
    assert(prompt.length + outputTokensMax <= maxPositionEmbeddings, 'the answer fits the window')
    assert(
      prompt.every((token) => token >= 0 && token < vocabSize),
      'every prompt token is in the vocabulary',
    )
    const seed = sampling.seed ?? Math.floor(this.#random() * Number.MAX_SAFE_INTEGER)
    const status = this.#scheduler.submit({ id, promptTokens: prompt.length, outputTokensMax })
    const generation: Generation = {
      request,
      sampler: createSampler({ sampling, seed, topLogprobs, constraint: null }),
      sequence: null,
      lastToken: -1,
      generated: 0,
    }
    if (status === 'queue_full') this.#emitFinished(generation, 'refused')
    else this.#generations.set(id, generation)
  }

  /** Ends a request before its next token. One that has ended already is passed over. */
  cancel(id: number): void {
    const generation = this.#generations.get(id)
    if (generation !== undefined) this.#finish(generation, 'cancelled')
  }

  /** Lets in whoever has a place now, then runs the model once over everyone who is in. */
  step(): void {
    this.#admit()
    this.#flush()
    const segments = this.#scheduler.schedule()
    const rows = segments.length === 0 ? [] : this.#model.forward(segments.map(this.#toSegment))
    this.#scheduler.commit()
    const sampling = segments.filter((segment) => segment.samples)
    assert.equal(rows.length, sampling.length, 'one row of logits for each token to sample')
    sampling.forEach(({ id }, index) => {
      const row = rows[index]
      assert(row !== undefined)
      this.#sample(this.#generation(id), row)
    })
    this.#flush()
  }

  #flush(): void {
    if (this.#events.length === 0) return
    const events = this.#events
    this.#events = []
    this.#emit(events)
  }

  #admit(): void {
    for (let next = this.#next(); next !== null; next = this.#next()) {
      const status = this.#createSequence(next)
      if (status === 'wait') return
      if (status === 'refused') {
        this.#finish(next, 'refused')
        continue
      }
      this.#scheduler.admit(next.request.id)
      this.#events.push({ kind: 'started', id: next.request.id, cachedTokens: 0 })
    }
  }

  #next(): Generation | null {
    const next = this.#scheduler.nextAdmissible()
    return next === null ? null : this.#generation(next.id)
  }

  /** Reserves cache for the whole answer. A full cache empties as others end, if there are others. */
  #createSequence(generation: Generation): 'created' | 'wait' | 'refused' {
    const { prompt, outputTokensMax } = generation.request
    try {
      generation.sequence = this.#model.createSequence({
        maxTokens: prompt.length + outputTokensMax,
      })
      return 'created'
    } catch (error) {
      if (!(error instanceof ModelError)) throw error
      const mayFitLater = error.code === 'cache_full' && this.#scheduler.runningCount > 0
      return mayFitLater ? 'wait' : 'refused'
    }
  }

  readonly #toSegment = ({ id, offset, count, samples }: ScheduledSegment): Segment => {
    const { request, sequence, lastToken } = this.#generation(id)
    assert(sequence !== null && sequence.length === offset, `sequence ${id} continues where it was`)
    const tokens =
      offset < request.prompt.length
        ? request.prompt.subarray(offset, offset + count)
        : Int32Array.of(lastToken)
    return { sequence, tokens, logits: samples ? 'last' : 'none' }
  }

  #sample(generation: Generation, logits: Float32Array): void {
    const { id } = generation.request
    const { token, logprobs } = generation.sampler.next(logits)
    generation.lastToken = token
    generation.generated += 1
    this.#events.push({ kind: 'token', id, token, logprobs })
    if (token === this.#model.shape.eosTokenId) this.#finish(generation, 'stop')
    else if (this.#scheduler.isExhausted(id)) this.#finish(generation, 'length')
  }

  #finish(generation: Generation, reason: EndReason): void {
    const { request, sequence } = generation
    this.#scheduler.remove(request.id)
    if (sequence !== null) this.#model.release(sequence)
    this.#generations.delete(request.id)
    this.#emitFinished(generation, reason)
  }

  #emitFinished({ request, generated }: Generation, reason: EndReason): void {
    this.#events.push({ kind: 'finished', id: request.id, reason, generated })
  }

  #generation(id: number): Generation {
    const generation = this.#generations.get(id)
    assert(generation !== undefined, `request ${id} is under way`)
    return generation
  }
}
