import { strict as assert } from 'node:assert'
import { LogitRow, type TokenMask } from './logit-row.ts'
import { seededRandom, type Random } from './random.ts'
import {
  outsideTopLogprob,
  topLogprobsMax,
  type SampledLogprobs,
  type SamplingOptions,
  type TokenLogprob,
} from './sampling.ts'

/** What narrows the choice of tokens down as an answer grows. */
export interface TokenConstraint {
  /** The tokens that may come next, at least one. Read it before the next `accept`. */
  mask(): TokenMask
  /** The token was drawn and is part of the answer. */
  accept(token: number): void
}

export interface SampledToken {
  readonly token: number
  /** null unless they were asked for. */
  readonly logprobs: SampledLogprobs | null
}

export interface SamplerOptions {
  readonly sampling: Pick<SamplingOptions, 'temperature' | 'topP'>
  readonly seed: number
  /** How many alternatives to report with each token; null: no probabilities at all. */
  readonly topLogprobs: number | null
  readonly constraint: TokenConstraint | null
}

/**
 * Draws the tokens of one answer, one row of logits after the other. Everything a draw depends on
 * besides the row is in here, so the same seed and rows give the same tokens whatever else runs, and
 * however often the sequence was set aside in between. A row is shown once, for a token that stays:
 * to verify a guess is to draw and compare.
 */
export interface Sampler {
  /** `logits`: one row, the whole vocabulary. Ties at temperature 0 go to the lowest id. */
  next(logits: Float32Array): SampledToken
}

export function createSampler(options: SamplerOptions): Sampler {
  const { sampling, topLogprobs, constraint } = options
  const random = seededRandom(options.seed)
  return {
    next(logits) {
      const row = new LogitRow(logits, constraint?.mask() ?? null)
      const token = drawToken(row, sampling, random)
      constraint?.accept(token)
      const logprobs = topLogprobs === null ? null : logprobsOf(logits, token, topLogprobs)
      return { token, logprobs }
    },
  }
}

/**
 * Weights are relative to the likeliest token's. What lies below e^-16 of it, nearly everything in a
 * row of a trained model, is only counted: all 129,280 tokens there hold less than 0.015.
 */
const headDepth = 16
/** No draw of 53 bits reaches a token below e^-40 alone. */
const negligibleDepth = 40

/** Tokens by id, each to be drawn in proportion to its weight. */
interface Choice {
  readonly tokens: ArrayLike<number>
  readonly weights: Float64Array
  readonly mass: number
}

/** Weights are e^-depth: how far, in natural logarithms, each lies below the likeliest. */
interface WeighedTokens extends Choice {
  readonly depths: Float64Array
}

function drawToken(
  row: LogitRow,
  { temperature, topP }: SamplerOptions['sampling'],
  random: Random,
): number {
  if (temperature === 0 || topP === 0) return row.argmax()
  if (topP < 1) {
    const nucleus = nucleusOf(row, temperature, topP)
    return pick(nucleus, random() * nucleus.mass)
  }
  const head = weigh(row, temperature, headDepth)
  const restMax = restBound(row, head)
  // Drawn from the head and a bound of the rest; only a draw that lands in the bound has to know
  // what is really there, and starts again where there is nothing. Exact all the same.
  for (;;) {
    const point = random() * (head.mass + restMax)
    if (point < head.mass) return pick(head, point)
    const rest = restOf(weigh(row, temperature, negligibleDepth), head)
    if (point - head.mass < rest.mass) return pick(rest, point - head.mass)
  }
}

/** The tokens no deeper than `depth`. */
function weigh(row: LogitRow, temperature: number, depth: number): WeighedTokens {
  const { logits, maximum } = row
  const tokens = row.atLeast(maximum - depth * temperature)
  const depths = new Float64Array(tokens.length)
  const weights = new Float64Array(tokens.length)
  let mass = 0
  for (let index = 0; index < tokens.length; index++) {
    const deep = (maximum - (logits[tokens[index] ?? 0] ?? 0)) / temperature
    const weight = Math.exp(-deep)
    depths[index] = deep
    weights[index] = weight
    mass += weight
  }
  return { tokens, depths, weights, mass }
}

function restOf(all: WeighedTokens, head: WeighedTokens): Choice {
  const inHead = new Set(Array.from(head.tokens))
  return select(all, (index) => !inHead.has(all.tokens[index] ?? 0))
}

function select(all: WeighedTokens, keep: (index: number) => boolean): Choice {
  const tokens = new Int32Array(all.tokens.length)
  const weights = new Float64Array(all.tokens.length)
  let count = 0
  let mass = 0
  for (let index = 0; index < tokens.length; index++) {
    if (!keep(index)) continue
    const weight = all.weights[index] ?? 0
    tokens[count] = all.tokens[index] ?? 0
    weights[count] = weight
    count += 1
    mass += weight
  }
  return { tokens: tokens.subarray(0, count), weights: weights.subarray(0, count), mass }
}

/** More than the tokens that were left out can weigh. */
function restBound(row: LogitRow, head: WeighedTokens): number {
  return (row.logits.length - head.tokens.length) * Math.exp(-headDepth)
}

/**
 * The smallest set of likeliest tokens that holds `topP` of everything, ties by lowest id. How much
 * there is below the head is only added up where the set depends on it.
 */
function nucleusOf(row: LogitRow, temperature: number, topP: number): Choice {
  const head = weigh(row, temperature, headDepth)
  const most = head.mass + restBound(row, head)
  const roughly = nucleusWithin(head, topP * head.mass, topP * most)
  if (roughly !== null) return roughly
  const exact = topP * row.mass(temperature)
  return (
    nucleusWithin(head, exact, exact) ??
    nucleusWithin(weigh(row, temperature, negligibleDepth), exact, exact) ??
    head
  )
}

/** The set from the front of `head` that holds a mass; null where `least` and `most` need others. */
function nucleusWithin(head: WeighedTokens, least: number, most: number): Choice | null {
  if (most > head.mass) return null
  const cut = findCut(head, least)
  const other = most === least ? cut : findCut(head, most)
  if (other.depth !== cut.depth || other.ties !== cut.ties) return null
  let ties = cut.ties
  return select(head, (index) => {
    const depth = head.depths[index] ?? 0
    return depth < cut.depth || (depth === cut.depth && ties-- > 0)
  })
}

/** Where a nucleus ends: everything above `depth` belongs to it, and the first `ties` right there. */
interface Cut {
  readonly depth: number
  readonly ties: number
}

/** Tokens are put into shells of this depth first: only the shell that the cut is in is sorted. */
const shellsPerDepth = 16

function findCut({ depths, weights }: WeighedTokens, mass: number): Cut {
  const shells = new Float64Array(negligibleDepth * shellsPerDepth + 2)
  const counts = new Int32Array(shells.length)
  let last = 0
  for (let index = 0; index < depths.length; index++) {
    const shell = shellOf(depths[index] ?? 0)
    shells[shell] = (shells[shell] ?? 0) + (weights[index] ?? 0)
    counts[shell] = (counts[shell] ?? 0) + 1
    if (shell > last) last = shell
  }
  let held = 0
  let shell = 0
  while (shell < last && held + (shells[shell] ?? 0) < mass) {
    held += shells[shell] ?? 0
    shell += 1
  }
  const inside = depthsIn(depths, shell, counts[shell] ?? 0)
  let size = 0
  do {
    held += Math.exp(-(inside[size] ?? 0))
    size += 1
  } while (size < inside.length && held < mass)
  const depth = inside[size - 1] ?? 0
  return { depth, ties: size - inside.indexOf(depth) }
}

/** The `count` depths that one shell holds, sorted. */
function depthsIn(depths: Float64Array, shell: number, count: number): Float64Array {
  const inside = new Float64Array(count)
  let found = 0
  for (let index = 0; found < count && index < depths.length; index++) {
    const depth = depths[index] ?? 0
    if (shellOf(depth) !== shell) continue
    inside[found] = depth
    found += 1
  }
  return inside.sort()
}

function shellOf(depth: number): number {
  return Math.floor(depth * shellsPerDepth)
}

/** The token at `point` of the mass, each taking up its weight in turn. */
function pick({ tokens, weights }: Choice, point: number): number {
  let left = point
  let last = -1
  for (let index = 0; index < weights.length; index++) {
    const weight = weights[index] ?? 0
    if (weight === 0) continue
    left -= weight
    last = tokens[index] ?? 0
    if (left < 0) return last
  }
  // Rounding may leave a sliver of mass behind the last token that has any.
  assert(last >= 0, 'some token has weight')
  return last
}

/**
 * The chosen token's log probability and the `count` likeliest tokens', from the logits as they are
 * (before constraint, temperature and nucleus), likeliest first and ties by lowest id.
 */
function logprobsOf(logits: Float32Array, token: number, count: number): SampledLogprobs {
  const row = new LogitRow(logits, null)
  const top = largest(logits, topLogprobsMax)
  const logOfTotal = row.maximum + Math.log(row.mass(1))
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
  const valueAt = (place: number): number => logits[ids[place] ?? 0] ?? 0
  let least = -Infinity
  for (let token = 0; token < logits.length; token++) {
    const value = logits[token] ?? 0
    if (value <= least && ids.length === count) continue
    let place = Math.min(ids.length, count - 1)
    while (place > 0 && valueAt(place - 1) < value) {
      ids[place] = ids[place - 1] ?? 0
      place -= 1
    }
    ids[place] = token
    least = valueAt(ids.length - 1)
  }
  return ids
}
