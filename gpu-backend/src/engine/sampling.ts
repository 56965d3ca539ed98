import { strict as assert } from 'node:assert'
import type { Random } from './random.ts'

export interface SamplingOptions {
  /** 0 picks the likeliest token. */
  readonly temperature: number
  /** The smallest set of likeliest tokens that holds this much probability is drawn from. */
  readonly topP: number
  /** null: the engine draws one. */
  readonly seed: number | null
}

export interface TokenLogprob {
  readonly token: number
  /** Natural logarithm; `outsideTopLogprob` for a token that is not among the top 20. */
  readonly logprob: number
}

export interface SampledLogprobs extends TokenLogprob {
  readonly top: readonly TokenLogprob[]
}

/** The API reports probabilities of the 20 likeliest tokens and this for every other. */
export const outsideTopLogprob = -9999
const topLogprobsMax = 20

/**
 * Below e^-40 of the likeliest token: 129,280 of them hold less than 6e-13 of the probability and no
 * draw of 53 bits reaches one alone, so their exponentials are not worth taking.
 */
const negligibleLog = -40

/**
 * Picks a token from one row of logits. Ties go to the lowest id. A NaN or a row without a finite
 * maximum is a broken forward pass and asserts.
 */
export function sampleToken(
  logits: Float32Array,
  options: Pick<SamplingOptions, 'temperature' | 'topP'>,
  random: Random,
): number {
  const best = indexOfMaximum(logits)
  if (options.temperature === 0 || options.topP === 0) return best
  const weights = relativeWeights(logits, logits[best] ?? 0, options.temperature)
  return options.topP < 1
    ? drawFromNucleus(weights, options.topP, random)
    : drawFrom(weights, null, sum(weights), random)
}

function indexOfMaximum(logits: Float32Array): number {
  let best = 0
  let maximum = -Infinity
  for (let token = 0; token < logits.length; token++) {
    const value = logits[token] ?? NaN
    assert(!Number.isNaN(value), `logit ${token} is not NaN`)
    if (value > maximum) {
      maximum = value
      best = token
    }
  }
  assert(Number.isFinite(maximum), 'the largest logit is finite')
  return best
}

/** exp((logit − maximum) / temperature), 0 where negligible. */
function relativeWeights(logits: Float32Array, maximum: number, temperature: number): Float64Array {
  const weights = new Float64Array(logits.length)
  for (let token = 0; token < logits.length; token++) {
    const scaled = ((logits[token] ?? 0) - maximum) / temperature
    if (scaled >= negligibleLog) weights[token] = Math.exp(scaled)
  }
  return weights
}

function sum(weights: Float64Array): number {
  let total = 0
  for (const weight of weights) total += weight
  return total
}

/**
 * No token below (1 − topP) / size of the mass can belong to the nucleus, since all of them together
 * hold less than what may be left out. Sorting the rest, a handful as a rule, is exact and cheap.
 */
function drawFromNucleus(weights: Float64Array, topP: number, random: Random): number {
  const total = sum(weights)
  const floor = (total * (1 - topP)) / weights.length
  const candidates: number[] = []
  weights.forEach((weight, token) => {
    if (weight > 0 && weight >= floor) candidates.push(token)
  })
  candidates.sort((a, b) => (weights[b] ?? 0) - (weights[a] ?? 0) || a - b)
  let mass = 0
  let size = 0
  while (size < candidates.length && mass < topP * total) {
    mass += weights[candidates[size] ?? 0] ?? 0
    size += 1
  }
  return drawFrom(weights, candidates.slice(0, Math.max(1, size)), mass, random)
}

/** One of `tokens` (null: of all), each with its share of `mass`. */
function drawFrom(
  weights: Float64Array,
  tokens: readonly number[] | null,
  mass: number,
  random: Random,
): number {
  let remaining = random() * mass
  let last = -1
  const count = tokens?.length ?? weights.length
  for (let index = 0; index < count; index++) {
    const token = tokens === null ? index : (tokens[index] ?? 0)
    const weight = weights[token] ?? 0
    if (weight === 0) continue
    remaining -= weight
    last = token
    if (remaining < 0) return token
  }
  // Rounding may leave a sliver of mass behind the last token that has any.
  assert(last >= 0, 'some token has weight')
  return last
}

/**
 * The chosen token's log probability and the `count` likeliest tokens', from the logits as they are
 * (before temperature and nucleus), likeliest first and ties by lowest id.
 */
export function logprobsOf(logits: Float32Array, token: number, count: number): SampledLogprobs {
  const top = largest(logits, topLogprobsMax)
  const maximum = logits[top[0] ?? 0] ?? 0
  let total = 0
  for (const logit of logits) total += Math.exp(logit - maximum)
  const logOfTotal = maximum + Math.log(total)
  const entry = (id: number): TokenLogprob => ({
    token: id,
    logprob: (logits[id] ?? 0) - logOfTotal,
  })
  return {
    token,
    logprob: top.includes(token) ? entry(token).logprob : outsideTopLogprob,
    top: top.slice(0, count).map(entry),
  }
}

/** Ids of the `count` largest logits, largest first: an insertion into a short sorted list. */
function largest(logits: Float32Array, count: number): number[] {
  const ids: number[] = []
  const valueAt = (id: number): number => logits[id] ?? -Infinity
  for (let token = 0; token < logits.length; token++) {
    const value = valueAt(token)
    if (ids.length === count && value <= valueAt(ids[count - 1] ?? 0)) continue
    let place = Math.min(ids.length, count - 1)
    while (place > 0 && valueAt(ids[place - 1] ?? 0) < value) {
      ids[place] = ids[place - 1] ?? 0
      place -= 1
    }
    ids[place] = token
  }
  return ids
}
