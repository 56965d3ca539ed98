import {
  estimateCost,
  estimatesOf,
  learn,
  NEW_ESTIMATOR,
} from '../../edge/src/admission/estimator.ts'
import type { EstimatorState } from '../../edge/src/admission/estimator.ts'
import { burstOf, charge, EMPTY_BUCKET, waitMs } from '../../edge/src/admission/gcra.ts'
import type { Bucket, Rate } from '../../edge/src/admission/gcra.ts'
import { defaultBurstMs } from '../../edge/src/admission/limits.ts'
import type { Limit } from '../../edge/src/admission/limits.ts'
import { DEFAULT_POLICY, TRUE_UP_TOKENS } from '../../edge/src/admission/policy.ts'
import { LIST_PRICES } from '../../edge/src/admission/prices.ts'
import { scopeOf } from './isolate-actor.ts'
import { TenantActor } from './tenant-actor.ts'
import { NO_FAULTS, World } from './world.ts'
import { bursts, poisson } from './workload.ts'
import type { Arrival, Sizes, Source } from './workload.ts'

/** When a request's tokens are counted, and what happens to one for which there is no room. */
export type Policy =
  | 'after_response'
  | 'reserve_max_tokens'
  | 'reserve_p90'
  | 'ours_at_once'
  | 'ours'

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
/** The usual token bucket holds a minute's worth. */
const MINUTE_BURST_MS = 60_000
const QUEUE_MS = 30_000

export function runPolicy(policy: Policy, shape: Shape, seed: number): PolicyResult {
  return new PolicyRun(policy, seed).run(shape)
}

/** Where requests are let in or not; `start` makes the answer, which takes this long. */
interface Door {
  arrive(arrival: Arrival, start: () => Timing): void
}

interface Timing {
  readonly prefillMs: number
  readonly decodeMs: number
}

class PolicyRun {
  readonly #world: World
  readonly #startMs: number
  readonly #door: Door
  /** Tokens made, by second. */
  readonly #used: number[] = Array.from({ length: MINUTES * 60 }, () => 0)
  #served = 0
  #arrived = 0

  constructor(policy: Policy, seed: number) {
    this.#world = new World(seed, NO_FAULTS)
    this.#startMs = this.#world.nowMs
    this.#door =
      policy === 'ours' || policy === 'ours_at_once'
        ? new OwnDoor(this.#world, policy === 'ours' ? QUEUE_MS : 0)
        : new UsualDoor(this.#world, policy)
  }

  run(shape: Shape): PolicyResult {
    const endMs = this.#startMs + MINUTES * 60_000
    for (const arrival of this.#workload(shape, endMs)) {
      this.#world.after(arrival.atMs - this.#startMs, () => {
        this.#arrived++
        this.#door.arrive(arrival, () => this.#start(arrival))
      })
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
    const source: Source = { tenantId: 't', keyIds: ['k'], sizes: SIZES, impatient: false }
    const perMinute = (OVERLOAD * CAP_PER_MINUTE) / (MEAN_INPUT_TOKENS + MEAN_OUTPUT_TOKENS)
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
      maxCostPico: null,
    }))
  }

  /** Prompt tokens are used when prefill is over, output tokens second by second. */
  #start({ promptTokens, naturalTokens }: Arrival): Timing {
    this.#served++
    const prefillMs = (promptTokens / PREFILL_TOKENS_PER_SECOND) * 1000
    const decodeMs = (naturalTokens / OUTPUT_TOKENS_PER_SECOND) * 1000
    const startSecond = (this.#world.nowMs - this.#startMs + prefillMs) / 1000
    this.#useAt(Math.floor(startSecond), promptTokens)
    for (let made = 0; made < naturalTokens; made += OUTPUT_TOKENS_PER_SECOND) {
      const second = Math.floor(startSecond + made / OUTPUT_TOKENS_PER_SECOND)
      this.#useAt(second, Math.min(OUTPUT_TOKENS_PER_SECOND, naturalTokens - made))
    }
    return { prefillMs, decodeMs }
  }

  #useAt(second: number, tokens: number): void {
    const before = this.#used[second]
    if (before !== undefined) this.#used[second] = before + tokens
  }
}

/** Ours, as it runs in production: a tenant's object with its queue, and a limit like any other. */
class OwnDoor implements Door {
  readonly #world: World
  readonly #tenant: TenantActor
  readonly #maxWaitMs: number
  #serial = 0

  constructor(world: World, maxWaitMs: number) {
    this.#world = world
    this.#maxWaitMs = maxWaitMs
    const terms = {
      limits: [CAP],
      billing: { kind: 'postpaid' as const, creditPico: 10n ** 18n },
      prices: { list: LIST_PRICES, contract: [] },
    }
    const onCommit = (): void => {}
    this.#tenant = new TenantActor(world, {
      tenantId: 't',
      terms,
      policy: DEFAULT_POLICY,
      onCommit,
    })
  }

  arrive(arrival: Arrival, start: () => Timing): void {
    const requestId = `r${this.#serial++}`
    const { bodyBytes, outputTokensMax, maxCostPico } = arrival
    const size = { bodyBytes, outputTokensMax, maxCostPico, maxWaitMs: this.#maxWaitMs }
    this.#tenant.admit({ requestId, scope: scopeOf(arrival), ...size }, null, ({ status }) => {
      if (status === 'admitted') this.#follow(requestId, arrival, start())
    })
  }

  /** What the backend tells of it: the prompt's length, output in steps, and its record. */
  #follow(requestId: string, arrival: Arrival, { prefillMs, decodeMs }: Timing): void {
    const { promptTokens, naturalTokens } = arrival
    const tell = (completionTokens: number): void => {
      const update = { requestId, promptTokens, cachedTokens: 0, completionTokens }
      const { nowMs } = this.#world
      this.#tenant.call((core) => core.progress(update, nowMs))
    }
    const stepMs = (TRUE_UP_TOKENS / OUTPUT_TOKENS_PER_SECOND) * 1000
    for (let step = 0; step * TRUE_UP_TOKENS < naturalTokens; step++) {
      this.#world.after(prefillMs + step * stepMs, () => tell(step * TRUE_UP_TOKENS))
    }
    const acceptedAtMs = this.#world.nowMs
    this.#world.after(prefillMs + decodeMs, () => {
      const { nowMs } = this.#world
      const record = {
        requestId,
        ...scopeOf(arrival),
        promptTokens,
        cachedTokens: 0,
        completionTokens: naturalTokens,
        deliveredTokens: naturalTokens,
        outcome: 'stop' as const,
        acceptedAtMs,
      }
      this.#tenant.call((core) => core.settle(record, nowMs))
    })
  }
}

/** As gateways do it: one bucket of a minute's tokens, charged with some estimate or none. */
class UsualDoor implements Door {
  readonly #world: World
  readonly #policy: Exclude<Policy, 'ours' | 'ours_at_once'>
  readonly #rate: Rate = {
    perMinute: CAP_PER_MINUTE,
    burst: burstOf(CAP_PER_MINUTE, MINUTE_BURST_MS),
  }
  #bucket: Bucket = EMPTY_BUCKET
  #estimator: EstimatorState = NEW_ESTIMATOR

  constructor(world: World, policy: Exclude<Policy, 'ours' | 'ours_at_once'>) {
    this.#world = world
    this.#policy = policy
  }

  arrive(arrival: Arrival, start: () => Timing): void {
    const reserved = this.#reserved(arrival)
    if (waitMs(this.#bucket, this.#rate, reserved, this.#world.nowMs) > 0) return
    const { prefillMs, decodeMs } = start()
    this.#charge(reserved)
    this.#world.after(prefillMs + decodeMs, () => {
      const { bodyBytes, promptTokens, cachedTokens, naturalTokens } = arrival
      this.#charge(promptTokens + naturalTokens - reserved)
      const seen = { bodyBytes, promptTokens, cachedTokens, completionTokens: naturalTokens }
      this.#estimator = learn(this.#estimator, seen)
    })
  }

  #reserved(arrival: Arrival): number {
    const { inputTokens, outputTokens } = estimateCost(estimatesOf(this.#estimator), arrival)
    switch (this.#policy) {
      case 'after_response':
        return 0
      case 'reserve_max_tokens':
        return inputTokens + arrival.outputTokensMax
      case 'reserve_p90':
        return inputTokens + outputTokens
      default:
        return this.#policy satisfies never
    }
  }

  #charge(tokens: number): void {
    this.#bucket = charge(this.#bucket, this.#rate, tokens, this.#world.nowMs)
  }
}

/** Means of the two log-normal sizes: the median times e^(sigma² / 2). */
const MEAN_INPUT_TOKENS = SIZES.promptMedian * Math.exp(SIZES.promptSigma ** 2 / 2)
const MEAN_OUTPUT_TOKENS = SIZES.outputMedian * Math.exp(SIZES.outputSigma ** 2 / 2)

const CAP: Limit = {
  id: 'tokens',
  scope: {},
  dimension: 'tokens',
  perMinute: CAP_PER_MINUTE,
  burstMs: defaultBurstMs('tokens'),
}

function worstWindow(perSecond: readonly number[], seconds: number): number {
  let sum = 0
  let worst = 0
  for (const [index, tokens] of perSecond.entries()) {
    sum += tokens - (perSecond[index - seconds] ?? 0)
    worst = Math.max(worst, sum)
  }
  return worst
}
