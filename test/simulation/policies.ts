import {
  estimateCost,
  estimatesOf,
  learn,
  NEW_ESTIMATOR,
} from '../../edge/src/admission/estimator.ts'
import type { EstimatorState } from '../../edge/src/admission/estimator.ts'
import { FairQueue } from '../../edge/src/admission/fair-queue.ts'
import { burstOf, charge, EMPTY_BUCKET, hold, waitMs } from '../../edge/src/admission/gcra.ts'
import type { Bucket, Rate } from '../../edge/src/admission/gcra.ts'
import { TRUE_UP_TOKENS } from '../../edge/src/admission/policy.ts'
import { NO_FAULTS, World } from './world.ts'
import { bursts, poisson } from './workload.ts'
import type { Arrival, Sizes, Source } from './workload.ts'

/** When a request's tokens are counted, and what happens to one for which there is no room. */
export type Policy =
  | 'after_response'
  | 'reserve_max_tokens'
  | 'reserve_p90'
  | 'hold_p90'
  | 'queue_p90'

export type Shape = 'poisson' | 'bursts of 50' | 'bursts of 300'

export interface PolicyResult {
  /** Tokens in the worst 60 seconds, over the cap. */
  readonly worstMinute: number
  /** Tokens over what the cap allows, from the second minute on. */
  readonly utilisation: number
  readonly served: number
  readonly arrived: number
}

/** A prompt of some 1,200 tokens and an answer of 380, on average; everyone asks for 4,096. */
const SIZES: Sizes = {
  promptMedian: 1000,
  promptSigma: 0.6,
  outputMedian: 300,
  outputSigma: 0.7,
  outputTokensMax: 4096,
}

/** One customer's cap, three times what it allows asked for, at a server that has room for all. */
const CAP_PER_MINUTE = 100_000
const OVERLOAD = 3
const MINUTES = 20
const OUTPUT_TOKENS_PER_SECOND = 50
const PREFILL_TOKENS_PER_SECOND = 20_000
/** The usual token bucket holds a minute's worth; the short one six seconds of it. */
const MINUTE_BURST_MS = 60_000
const SHORT_BURST_MS = 6000
const QUEUE_MS = 30_000

export function runPolicy(policy: Policy, shape: Shape, seed: number): PolicyResult {
  return new PolicyRun(policy, seed).run(shape)
}

class PolicyRun {
  readonly #policy: Policy
  readonly #world: World
  readonly #startMs: number
  readonly #rate: Rate
  readonly #queue = new FairQueue({ bandFloors: [0], waitersMax: 10_000, tokensMax: 1e9 })
  readonly #waiting = new Map<string, Arrival>()
  /** Tokens made, by second. */
  readonly #used: number[] = Array.from({ length: MINUTES * 60 }, () => 0)
  #bucket: Bucket = EMPTY_BUCKET
  #estimator: EstimatorState = NEW_ESTIMATOR
  #served = 0
  #arrived = 0

  constructor(policy: Policy, seed: number) {
    this.#policy = policy
    this.#world = new World(seed, NO_FAULTS)
    this.#startMs = this.#world.nowMs
    const burstMs = isOurs(policy) ? SHORT_BURST_MS : MINUTE_BURST_MS
    this.#rate = { perMinute: CAP_PER_MINUTE, burst: burstOf(CAP_PER_MINUTE, burstMs) }
  }

  run(shape: Shape): PolicyResult {
    const endMs = this.#startMs + MINUTES * 60_000
    for (const arrival of this.#workload(shape, endMs)) {
      this.#world.after(arrival.atMs - this.#startMs, () => this.#arrive(arrival))
    }
    this.#world.runUntil(endMs)
    return {
      worstMinute: worstWindow(this.#used, 60) / CAP_PER_MINUTE,
      utilisation:
        this.#used.slice(60).reduce((sum, tokens) => sum + tokens, 0) /
        (CAP_PER_MINUTE * (MINUTES - 1)),
      served: this.#served,
      arrived: this.#arrived,
    }
  }

  #workload(shape: Shape, endMs: number): readonly Arrival[] {
    const { random } = this.#world
    const source: Source = { tenantId: 't', keyIds: ['k'], sizes: SIZES }
    const perMinute = (OVERLOAD * CAP_PER_MINUTE) / MEAN_TOKENS
    const span = { fromMs: this.#startMs, endMs, perMinute }
    const arrivals =
      shape === 'poisson'
        ? poisson(random, source, span)
        : bursts(random, source, { ...span, size: shape === 'bursts of 50' ? 50 : 300 })
    const { outputTokensMax } = SIZES
    // Everyone asks for as much as may be, as clients do, and stays.
    return arrivals.map((arrival) => ({
      ...arrival,
      outputTokensMax,
      naturalTokens: Math.min(arrival.naturalTokens, outputTokensMax),
      patienceMs: null,
    }))
  }

  #arrive(arrival: Arrival): void {
    this.#arrived++
    const tokens = this.#reserved(arrival)
    const first = this.#queue.size.waiters === 0
    if (first && this.#waitMs(tokens) === 0) return this.#start(arrival, tokens)
    if (this.#policy !== 'queue_p90') return
    const id = String(this.#arrived)
    const deadlineMs = this.#world.nowMs + QUEUE_MS
    this.#waiting.set(id, arrival)
    this.#queue.enqueue({ id, tenantId: 't', weight: 1, band: 0, tokens, deadlineMs })
    if (first) this.#serveQueue()
  }

  /** Starts whoever fits, and comes back when the next one will. */
  #serveQueue(): void {
    for (const { id } of this.#queue.expire(this.#world.nowMs)) this.#waiting.delete(id)
    for (;;) {
      const head = this.#queue.peek()
      if (head === null) return
      const arrival = this.#waiting.get(head.id)
      if (arrival === undefined) throw new Error('a waiter has a request')
      // What is known has grown since it came.
      const tokens = this.#reserved(arrival)
      const wait = this.#waitMs(tokens)
      if (wait > 0) {
        // Answers that end make room before the advised time does.
        this.#world.after(Math.min(wait, 250), () => this.#serveQueue())
        return
      }
      this.#queue.take()
      this.#waiting.delete(head.id)
      this.#start(arrival, tokens)
    }
  }

  #start(arrival: Arrival, reserved: number): void {
    this.#served++
    const prefillMs = (arrival.promptTokens / PREFILL_TOKENS_PER_SECOND) * 1000
    const decodeMs = (arrival.naturalTokens / OUTPUT_TOKENS_PER_SECOND) * 1000
    this.#use(arrival, prefillMs)
    if (isOurs(this.#policy)) {
      this.#startHeld(arrival, prefillMs)
      return
    }
    this.#charge(reserved)
    this.#world.after(prefillMs + decodeMs, () => {
      this.#charge(totalOf(arrival) - reserved)
      this.#learn(arrival)
    })
  }

  /** The prompt is charged and its length put right, output is held and charged as it is made. */
  #startHeld(arrival: Arrival, prefillMs: number): void {
    const { inputTokens, outputTokens } = this.#estimate(arrival)
    const { promptTokens, naturalTokens } = arrival
    let held = 0
    let charged = 0
    const hasMade = (made: number): void => {
      const heldNow = made < naturalTokens ? Math.max(0, outputTokens - made) : 0
      this.#charge(made - charged)
      this.#bucket = hold(this.#bucket, heldNow - held)
      charged = made
      held = heldNow
    }
    this.#charge(inputTokens)
    hasMade(0)
    this.#world.after(prefillMs, () => this.#charge(promptTokens - inputTokens))
    const stepMs = (TRUE_UP_TOKENS / OUTPUT_TOKENS_PER_SECOND) * 1000
    for (let step = 1; step * TRUE_UP_TOKENS < naturalTokens; step++) {
      this.#world.after(prefillMs + step * stepMs, () => hasMade(step * TRUE_UP_TOKENS))
    }
    const decodeMs = (naturalTokens / OUTPUT_TOKENS_PER_SECOND) * 1000
    this.#world.after(prefillMs + decodeMs, () => {
      hasMade(naturalTokens)
      this.#learn(arrival)
    })
  }

  /** Prompt tokens when prefill is over, output tokens second by second. */
  #use({ promptTokens, naturalTokens }: Arrival, prefillMs: number): void {
    const startSecond = (this.#world.nowMs - this.#startMs + prefillMs) / 1000
    this.#useAt(Math.floor(startSecond), promptTokens)
    for (let made = 0; made < naturalTokens; made += OUTPUT_TOKENS_PER_SECOND) {
      const second = Math.floor(startSecond + made / OUTPUT_TOKENS_PER_SECOND)
      this.#useAt(second, Math.min(OUTPUT_TOKENS_PER_SECOND, naturalTokens - made))
    }
  }

  #useAt(second: number, tokens: number): void {
    const before = this.#used[second]
    if (before !== undefined) this.#used[second] = before + tokens
  }

  #reserved(arrival: Arrival): number {
    const { inputTokens, outputTokens } = this.#estimate(arrival)
    switch (this.#policy) {
      case 'after_response':
        return 0
      case 'reserve_max_tokens':
        return inputTokens + arrival.outputTokensMax
      case 'reserve_p90':
      case 'hold_p90':
      case 'queue_p90':
        return inputTokens + outputTokens
      default:
        return this.#policy satisfies never
    }
  }

  #estimate(arrival: Arrival): { inputTokens: number; outputTokens: number } {
    return estimateCost(estimatesOf(this.#estimator), arrival)
  }

  #learn({ bodyBytes, promptTokens, cachedTokens, naturalTokens }: Arrival): void {
    const seen = { bodyBytes, promptTokens, cachedTokens, completionTokens: naturalTokens }
    this.#estimator = learn(this.#estimator, seen)
  }

  #waitMs(tokens: number): number {
    return waitMs(this.#bucket, this.#rate, tokens, this.#world.nowMs)
  }

  #charge(tokens: number): void {
    this.#bucket = charge(this.#bucket, this.#rate, tokens, this.#world.nowMs)
  }
}

/** Output held until it is made, a short burst; with or without a queue before it. */
function isOurs(policy: Policy): boolean {
  return policy === 'hold_p90' || policy === 'queue_p90'
}

function totalOf({ promptTokens, naturalTokens }: Arrival): number {
  return promptTokens + naturalTokens
}

/** Means of the two log-normal sizes: the median times e^(sigma² / 2). */
const MEAN_TOKENS =
  SIZES.promptMedian * Math.exp(SIZES.promptSigma ** 2 / 2) +
  SIZES.outputMedian * Math.exp(SIZES.outputSigma ** 2 / 2)

function worstWindow(perSecond: readonly number[], seconds: number): number {
  let sum = 0
  let worst = 0
  for (const [index, tokens] of perSecond.entries()) {
    sum += tokens - (perSecond[index - seconds] ?? 0)
    worst = Math.max(worst, sum)
  }
  return worst
}
