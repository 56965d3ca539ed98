import { strict as assert } from 'node:assert'
import type { Model, Segment, Sequence } from '../model/model.ts'
import type { Constraints } from '../grammar/constraint.ts'
import { bestHome, type Home, openHomes } from './homes.ts'
import { PageKeys } from './prefix-cache.ts'
import type { PrefixSpill } from './prefix-spill.ts'
import type { EndReason, EngineEvent, EngineStats, GenerationRequest } from './protocol.ts'
import type { Random } from './random.ts'
import { createSampler, type Sampler, type TokenConstraint } from './sampler.ts'
import type {
  Admission,
  Pace,
  ScheduledSegment,
  Scheduler,
  SchedulerLimits,
  StepPlan,
} from './scheduler.ts'
import {
  type Draw,
  drawWhileRight,
  type FollowedStep,
  type Guesses,
  type Speculation,
} from './speculation.ts'

/** The part of a model that generating text needs. */
export type EngineModel = Pick<
  Model,
  | 'deviceCount'
  | 'createSequence'
  | 'keepPrefix'
  | 'dropPrefix'
  | 'forward'
  | 'release'
  | 'capacity'
> & {
  readonly shape: Pick<Model['shape'], 'eosTokenId' | 'maxPositionEmbeddings' | 'vocabSize'>
}

export interface EngineOptions {
  readonly model: EngineModel
  readonly limits: SchedulerLimits
  /** Guesses tokens ahead, over the same model; absent: every token takes a step. */
  readonly speculation?: Speculation | null
  /** Takes prefixes that have to leave the cache, over the same model; absent: they are dropped. */
  readonly spill?: PrefixSpill | null
  /** Holds answers to grammars; absent: no request has one. */
  readonly constraints?: Pick<Constraints, 'create'>
  /** Draws a seed for each request that brings none. */
  readonly random: Random
  /** Unix time in milliseconds: deadlines are the edge's, whatever it does to the clock here. */
  readonly now: () => number
  /** Told at least once a step: before the model runs, which may take long, and after. */
  readonly emit: (events: readonly EngineEvent[]) => void
  /** Told every `statsEveryMs` of work or less often, and when the work has ended. */
  readonly emitStats?: (stats: EngineStats) => void
}

export const statsEveryMs = 100

/** How much the latest step counts in the pace of prompts. */
const paceWeight = 0.2

interface Generation {
  readonly request: GenerationRequest
  /** The device that it is on for all its life. */
  readonly home: Home
  readonly sampler: Sampler
  /** Names of the pages of `tokens`; none are given where nothing is to be shared. */
  readonly pageKeys: PageKeys | null
  /** Prompt and answer so far. */
  readonly tokens: TokenList
  readonly guesses: Guesses | null
  /** null until the request has a place in the running set, and while it is preempted. */
  sequence: Sequence | null
  generated: number
}

/** What a step did to one request, beside computing it. */
interface Drawn {
  readonly generation: Generation
  /** Guesses that were right, of those the step had. */
  readonly right: number
  readonly ended: EndReason | null
}

/**
 * Continuous batching over a model: requests come and go between steps, and each step runs every
 * sequence that has something to feed. Does with the model what the scheduler decides, in its order.
 * Synchronous; whoever drives it listens for messages between two steps.
 */
export class Engine {
  readonly #options: EngineOptions
  readonly #model: EngineModel
  readonly #homes: readonly Home[]
  readonly #generations = new Map<number, Generation>()
  readonly #totals = {
    promptTokensTotal: 0,
    cachedTokensTotal: 0,
    generatedTokensTotal: 0,
    preemptionsTotal: 0,
    prefixQueriesTotal: 0,
    prefixHitsTotal: 0,
    draftedTokensTotal: 0,
    acceptedTokensTotal: 0,
    stepsTotal: 0,
    stepSecondsTotal: 0,
  }
  #events: EngineEvent[] = []
  #promptTokensPerMs: number | null = null
  #statsAtMs = -Infinity

  constructor(options: EngineOptions) {
    this.#options = options
    this.#model = options.model
    this.#homes = openHomes(options.limits, options.model)
  }

  /** Whether a step would do nothing: no request under way and nothing to tell. */
  get idle(): boolean {
    return this.#generations.size === 0 && this.#events.length === 0
  }

  get stats(): EngineStats {
    const { pageTokens, pagesMax } = this.#model.capacity()
    return {
      running: this.#sum((scheduler) => scheduler.runningCount),
      waiting: this.#sum((scheduler) => scheduler.waitingCount),
      waitingTokens: this.#sum((scheduler) => scheduler.waitingTokens),
      cacheTokensFree: this.#sum((scheduler) => scheduler.pagesAvailable) * pageTokens,
      cacheTokensMax: pagesMax * pageTokens,
      ...this.#totals,
    }
  }

  /** Queues a request. Every request ends in exactly one `finished` event. */
  submit(request: GenerationRequest): void {
    const { id, prompt, outputTokensMax, priority, deadlineMs } = request
    const { maxPositionEmbeddings, vocabSize } = this.#model.shape
    assert(prompt.length + outputTokensMax <= maxPositionEmbeddings, 'the answer fits the window')
    assert(
      prompt.every((token) => token >= 0 && token < vocabSize),
      'every prompt token is in the vocabulary',
    )
    const generation = this.#generationFor(request)
    this.#recall(generation)
    const status = generation.home.scheduler.submit(
      {
        id,
        promptTokens: prompt.length,
        outputTokensMax,
        priority,
        deadlineMs,
        pageKeys: generation.pageKeys?.names ?? [],
      },
      this.#pace(this.#options.now()),
    )
    if (status === 'accepted') this.#generations.set(id, generation)
    else this.#emitFinished(generation, status === 'too_late' ? 'expired' : 'refused')
  }

  /** Ends a request before its next token. One that has ended already is passed over. */
  cancel(id: number): void {
    const generation = this.#generations.get(id)
    if (generation !== undefined) this.#finish(generation, 'cancelled')
  }

  /** Lets in whoever has a place now, then runs the model once over everyone who is in. */
  step(): void {
    const startedMs = this.#options.now()
    const segments = this.#homes.flatMap((home) => {
      const plan = home.scheduler.schedule(this.#pace(startedMs))
      this.#prepare(home, plan)
      return plan.segments
    })
    this.#flush()
    if (segments.length > 0) this.#run(segments)
    else for (const { scheduler } of this.#homes) scheduler.commit()
    this.#assertSamePages()
    this.#flush()
    this.#measure(segments, startedMs)
  }

  #sum(count: (scheduler: Scheduler) => number): number {
    return this.#homes.reduce((total, { scheduler }) => total + count(scheduler), 0)
  }

  #generationFor(request: GenerationRequest): Generation {
    const { prompt, sampling, topLogprobs, cacheSalt } = request
    const seed = sampling.seed ?? Math.floor(this.#options.random() * Number.MAX_SAFE_INTEGER)
    const { pageTokens, prefixesMax } = this.#model.capacity()
    const pageKeys =
      cacheSalt === null || prefixesMax === 0 ? null : new PageKeys(cacheSalt, pageTokens)
    pageKeys?.push(prompt)
    const asked = { tokens: prompt.length, pageKeys: pageKeys?.names ?? [] }
    return {
      request,
      home: bestHome(this.#homes, asked, pageTokens),
      sampler: createSampler({
        sampling,
        seed,
        topLogprobs,
        constraint: this.#constraintOf(request),
      }),
      pageKeys,
      tokens: new TokenList(prompt),
      guesses: this.#options.speculation?.open() ?? null,
      sequence: null,
      generated: 0,
    }
  }

  #constraintOf({ grammar, outputTokensMax }: GenerationRequest): TokenConstraint | null {
    if (grammar === undefined) return null
    const { constraints } = this.#options
    assert(constraints !== undefined, 'an engine that takes grammars has constraints')
    return constraints.create(grammar, outputTokensMax)
  }

  /** Brings back what there is of a prompt beyond what is in the cache. */
  #recall({ request: { prompt }, home, pageKeys }: Generation): void {
    const { spill } = this.#options
    if (spill === undefined || spill === null || pageKeys === null) return
    const { pageTokens } = this.#model.capacity()
    const cached = home.scheduler.cachedPages(pageKeys.names, prompt.length)
    // A prompt's last token is fed, whatever is cached: logits come behind a fed one.
    const most = Math.floor((prompt.length - 1) / pageTokens)
    const pages = spill.longest(pageKeys.names, cached, most)
    const key = pages === null ? undefined : pageKeys.names[pages - 1]
    if (pages === null || key === undefined) return
    const dropped = home.scheduler.adopt(key, pages)
    if (dropped === null) return
    this.#evict(home, dropped)
    const prefix = spill.restore(key, home.index)
    if (prefix === null) home.scheduler.disown(key)
    else home.prefixes.set(key, prefix)
  }

  #pace(nowMs: number): Pace {
    return { nowMs, promptTokensPerMs: this.#promptTokensPerMs }
  }

  #flush(): void {
    if (this.#events.length === 0) return
    const events = this.#events
    this.#events = []
    this.#options.emit(events)
  }

  /** Makes the room in the model that the scheduler has made in its books, and fills it. */
  #prepare(home: Home, { expired, dropped, preempted, admitted }: StepPlan): void {
    for (const id of expired) {
      // What has been generated is an answer, if a short one.
      const generation = this.#generation(id)
      this.#end(generation, generation.generated > 0 ? 'length' : 'expired')
    }
    this.#evict(home, dropped)
    for (const id of preempted) this.#release(this.#generation(id))
    this.#totals.preemptionsTotal += preempted.length
    for (const admission of admitted) this.#begin(admission)
  }

  #begin({ id, prefix, cachedTokens, again }: Admission): void {
    const generation = this.#generation(id)
    const { home, request } = generation
    const maxTokens = request.prompt.length + request.outputTokensMax
    const from = prefix === null ? undefined : home.prefixes.get(prefix)
    assert(prefix === null || from?.length === cachedTokens, 'a prefix that was found is kept')
    generation.sequence = this.#model.createSequence({
      maxTokens,
      on: home.index,
      ...(from === undefined ? {} : { from }),
    })
    generation.guesses?.place(from)
    if (again) return
    if (generation.pageKeys !== null) this.#totals.prefixQueriesTotal += 1
    if (prefix !== null) this.#totals.prefixHitsTotal += 1
    this.#totals.cachedTokensTotal += cachedTokens
    this.#events.push({ kind: 'started', id, cachedTokens })
  }

  #run(segments: readonly ScheduledSegment[]): void {
    const rows = this.#model.forward(segments.map(this.#toSegment))
    const drawn = this.#drawAll(segments, rows)
    // Before anything is kept: a prefix has the draft block's state too.
    this.#guess(segments, drawn)
    const right = new Map([...drawn].map(([id, draws]) => [id, draws.right]))
    for (const home of this.#homes) {
      for (const { id, key, dropped } of home.scheduler.commit(right)) {
        const generation = this.#generation(id)
        // Beginnings of the text itself are part of what takes their place.
        const names = new Set(generation.pageKeys?.names)
        this.#drop(
          home,
          dropped.filter((name) => names.has(name)),
        )
        this.#evict(
          home,
          dropped.filter((name) => !names.has(name)),
        )
        this.#keep(generation, key)
      }
    }
    for (const [id, { generation, ended }] of drawn) {
      const { home, guesses } = generation
      if (ended !== null) this.#finish(generation, ended)
      else home.scheduler.offerDrafts(id, guesses?.tokens.length ?? 0)
    }
  }

  readonly #toSegment = (segment: ScheduledSegment): Segment => {
    const { id, offset, count, drafts, samples } = segment
    const { sequence, tokens, guesses } = this.#generation(id)
    assert(sequence?.length === offset, `sequence ${id} continues where it was`)
    const known = tokens.slice(offset, offset + count - drafts)
    if (drafts === 0) return { sequence, tokens: known, logits: samples ? 'last' : 'none' }
    assert(samples && known.length === 1 && guesses !== null, 'guesses follow the latest token')
    const guessed = guesses.tokens.slice(0, drafts)
    return { sequence, tokens: Int32Array.of(...known, ...guessed), logits: 'all' }
  }

  /** Draws for every segment that samples: a row each, and one for each guess in it. */
  #drawAll(
    segments: readonly ScheduledSegment[],
    rows: readonly Float32Array[],
  ): ReadonlyMap<number, Drawn> {
    const drawn = new Map<number, Drawn>()
    let at = 0
    for (const { id, drafts, samples } of segments) {
      if (!samples) continue
      const own = rows.slice(at, at + 1 + drafts)
      at += own.length
      drawn.set(id, this.#drawFor(this.#generation(id), own))
    }
    assert.equal(rows.length, at, 'one row of logits for each token that may be drawn')
    return drawn
  }

  #drawFor(generation: Generation, rows: readonly Float32Array[]): Drawn {
    const { sequence, guesses } = generation
    assert(sequence !== null, 'what is drawn for is in the cache')
    const guessed = guesses?.tokens.slice(0, rows.length - 1) ?? []
    const { right, ended } = drawWhileRight(rows, guessed, (row) => this.#draw(generation, row))
    this.#options.speculation?.takeBack(sequence, guessed.length - right)
    guesses?.note(guessed.length, right)
    this.#totals.draftedTokensTotal += guessed.length
    this.#totals.acceptedTokensTotal += right
    return { generation, right, ended }
  }

  /** The one place where a token is chosen. */
  #draw(generation: Generation, logits: Float32Array): Draw<EndReason> {
    const { id, outputTokensMax } = generation.request
    const { token, logprobs } = generation.sampler.next(logits)
    generation.tokens.push(token)
    generation.pageKeys?.push([token])
    generation.generated += 1
    this.#totals.generatedTokensTotal += 1
    this.#events.push({ kind: 'token', id, token, logprobs })
    if (token === this.#model.shape.eosTokenId) return { token, ended: 'stop' }
    return { token, ended: generation.generated >= outputTokensMax ? 'length' : null }
  }

  /** Has the draft block see the step, and guess where another token may follow the next one. */
  #guess(segments: readonly ScheduledSegment[], drawn: ReadonlyMap<number, Drawn>): void {
    const steps: FollowedStep[] = []
    for (const { id, offset } of segments) {
      const { request, sequence, tokens, guesses, generated } = this.#generation(id)
      if (sequence === null || guesses === null) continue
      const draws = drawn.get(id)
      const goesOn = draws !== undefined && draws.ended === null
      const wanted = goesOn ? request.outputTokensMax - generated - 1 : 0
      const next = tokens.slice(offset + 1, sequence.length + 1)
      steps.push({ sequence, guesses, next, wanted })
    }
    this.#options.speculation?.follow(steps)
  }

  #keep({ home, sequence }: Generation, key: string): void {
    assert(sequence !== null, 'what is kept of is in the cache')
    const prefix = this.#model.keepPrefix(sequence)
    assert(prefix !== null, 'the scheduler counts the places for prefixes')
    home.prefixes.set(key, prefix)
  }

  #evict(home: Home, keys: readonly string[]): void {
    for (const key of keys) {
      const prefix = home.prefixes.get(key)
      if (prefix !== undefined) this.#options.spill?.save(key, prefix)
    }
    this.#drop(home, keys)
  }

  #drop({ prefixes }: Home, keys: readonly string[]): void {
    for (const key of keys) {
      const prefix = prefixes.get(key)
      assert(prefix !== undefined, 'a prefix that is dropped was kept')
      this.#model.dropPrefix(prefix)
      prefixes.delete(key)
    }
  }

  #release(generation: Generation): void {
    if (generation.sequence !== null) this.#model.release(generation.sequence)
    generation.sequence = null
  }

  #finish(generation: Generation, reason: EndReason): void {
    generation.home.scheduler.remove(generation.request.id)
    this.#end(generation, reason)
  }

  /** Ends a request that the scheduler has let go of. */
  #end(generation: Generation, reason: EndReason): void {
    this.#release(generation)
    this.#generations.delete(generation.request.id)
    this.#emitFinished(generation, reason)
  }

  #emitFinished({ request, generated }: Generation, reason: EndReason): void {
    this.#events.push({ kind: 'finished', id: request.id, reason, generated })
  }

  #measure(segments: readonly ScheduledSegment[], startedMs: number): void {
    const nowMs = this.#options.now()
    const tookMs = Math.max(0, nowMs - startedMs)
    const prefill = segments.filter((segment) => segment.prefill)
    const promptTokens = prefill.reduce((total, { count }) => total + count, 0)
    this.#totals.promptTokensTotal += promptTokens
    if (segments.length > 0) {
      this.#totals.stepsTotal += 1
      this.#totals.stepSecondsTotal += tookMs / 1000
    }
    // Only steps full of prompts tell how fast those go; with few tokens others' time prevails.
    if (promptTokens >= this.#options.limits.stepTokensMax / 2 && tookMs > 0) {
      const pace = promptTokens / tookMs
      this.#promptTokensPerMs ??= pace
      this.#promptTokensPerMs += paceWeight * (pace - this.#promptTokensPerMs)
    }
    if (!this.idle && Math.abs(nowMs - this.#statsAtMs) < statsEveryMs) return
    this.#statsAtMs = nowMs
    this.#options.emitStats?.(this.stats)
  }

  /** A page that one side believes free and the other not is a leak, and is found at once. */
  #assertSamePages(): void {
    for (const { index, scheduler } of this.#homes) {
      const { pagesFree, sequencesUsed } = this.#model.capacity(index)
      assert.equal(scheduler.pagesFree, pagesFree, 'scheduler and model count the same pages')
      assert.equal(scheduler.runningCount, sequencesUsed, 'who runs has a place in the model')
    }
  }

  #generation(id: number): Generation {
    const generation = this.#generations.get(id)
    assert(generation !== undefined, `request ${id} is under way`)
    return generation
  }
}

/** Token ids that are added to at the end; room doubles, since most answers are short of their limit. */
class TokenList {
  #room: Int32Array
  #length: number

  constructor(tokens: Int32Array) {
    this.#room = tokens
    this.#length = tokens.length
  }

  push(token: number): void {
    if (this.#length === this.#room.length) {
      const larger = new Int32Array(2 * this.#length)
      larger.set(this.#room)
      this.#room = larger
    }
    this.#room[this.#length] = token
    this.#length += 1
  }

  slice(start: number, end: number): Int32Array {
    assert(end <= this.#length, 'only tokens that are known are fed')
    return this.#room.subarray(start, end)
  }
}
