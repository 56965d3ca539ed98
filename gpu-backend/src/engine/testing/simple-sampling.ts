import { strict as assert } from 'node:assert'
import type { Random } from '../random.ts'
import {
  outsideTopLogprob,
  topLogprobsMax,
  type SampledLogprobs,
  type SamplingOptions,
} from '../sampling.ts'

type Sampling = Pick<SamplingOptions, 'temperature' | 'topP'>

/**
 * The probability of each token, as the definition has it: softmax at the temperature, then the
 * smallest set of likeliest tokens that holds `topP`, ties by lowest id. What the sampler, which
 * sorts nothing and skips nearly everything, is held against.
 */
export function distributionOf(logits: Float32Array, { temperature, topP }: Sampling): number[] {
  const values = Array.from(logits)
  assert(!values.some(Number.isNaN), 'no logit is NaN')
  const byLogit = [...values.keys()].toSorted((a, b) => at(values, b) - at(values, a) || a - b)
  const best = at(byLogit, 0)
  if (temperature === 0) return values.map((_, token) => (token === best ? 1 : 0))
  const weights = values.map((value) => Math.exp((value - at(values, best)) / temperature))
  const total = sum(weights)
  const nucleus = new Set<number>()
  let held = 0
  for (const token of byLogit) {
    if (nucleus.size > 0 && held >= topP * total && topP < 1) break
    nucleus.add(token)
    held += at(weights, token)
  }
  return weights.map((weight, token) => (nucleus.has(token) ? weight / held : 0))
}

/** Draws a token, each taking up its probability in order of ids. */
export function sampleToken(logits: Float32Array, sampling: Sampling, random: Random): number {
  const distribution = distributionOf(logits, sampling)
  let left = random()
  for (const [token, probability] of distribution.entries()) {
    left -= probability
    if (left < 0) return token
  }
  return distribution.findLastIndex((probability) => probability > 0)
}

export function logprobsOf(logits: Float32Array, token: number, count: number): SampledLogprobs {
  const logarithms = distributionOf(logits, { temperature: 1, topP: 1 }).map(Math.log)
  const top = [...logarithms.keys()]
    .toSorted((a, b) => (logits[b] ?? 0) - (logits[a] ?? 0) || a - b)
    .slice(0, topLogprobsMax)
    .map((id) => ({ token: id, logprob: at(logarithms, id) }))
  const logprob = top.find((entry) => entry.token === token)?.logprob ?? outsideTopLogprob
  return { token, logprob, top: top.slice(0, count) }
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0)
}

function at(values: readonly number[], index: number): number {
  const value = values[index]
  assert(value !== undefined, `index ${index} is inside`)
  return value
}
