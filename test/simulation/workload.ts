import type { Random } from './random.ts'

/** A client's request, with what nobody at the edge knows beforehand. */
export interface Arrival {
  readonly atMs: number
  readonly tenantId: string
  readonly keyId: string
  readonly bodyBytes: number
  readonly outputTokensMax: number
  readonly promptTokens: number
  readonly cachedTokens: number
  readonly naturalTokens: number
  /** How long its client stays; null: to the end. */
  readonly patienceMs: number | null
  /** How long it may wait for room under its tenant's own limits. */
  readonly maxWaitMs: number
  readonly maxCostPico: number | null
  /** Whether the engine breaks in the middle of it. */
  readonly breaks: boolean
}

export interface Sizes {
  readonly promptMedian: number
  readonly promptSigma: number
  readonly outputMedian: number
  readonly outputSigma: number
  readonly outputTokensMax: number
}

export const CHAT_SIZES: Sizes = {
  promptMedian: 800,
  promptSigma: 0.8,
  outputMedian: 300,
  outputSigma: 0.9,
  outputTokensMax: 4096,
}

/** Small questions, answers as long as they may be: all the money is in the output. */
export const ESSAY_SIZES: Sizes = {
  promptMedian: 20,
  promptSigma: 0.5,
  outputMedian: 4000,
  outputSigma: 0.3,
  outputTokensMax: 4096,
}

export interface Source {
  readonly tenantId: string
  readonly keyIds: readonly string[]
  readonly sizes: Sizes
  /** Most of its clients leave within seconds. */
  readonly impatient: boolean
}

/** At once, as one who sets a limit, a whole answer, a stream. */
const WAITS_MS = [0, 2_000, 10_000, 30_000]

/** One request of a source, its sizes drawn. */
export function drawArrival(random: Random, source: Source, atMs: number): Arrival {
  const { sizes } = source
  const promptTokens = clamp(random.logNormal(sizes.promptMedian, sizes.promptSigma), 1, 1_000_000)
  const bytesPerToken = 1 + random.unit() * 4
  const bodyBytes = Math.ceil(promptTokens * bytesPerToken)
  // Some run for minutes, longer than anyone waits before asking what has become of them.
  const endless = random.chance(0.02)
  return {
    atMs,
    tenantId: source.tenantId,
    keyId: random.pick(source.keyIds),
    bodyBytes,
    outputTokensMax: endless
      ? 12_000
      : random.chance(0.2)
        ? random.between(1, 600)
        : sizes.outputTokensMax,
    promptTokens,
    cachedTokens: random.chance(0.4) ? Math.floor((promptTokens - 1) * random.unit()) : 0,
    naturalTokens: endless
      ? random.between(6000, 15_000)
      : clamp(random.logNormal(sizes.outputMedian, sizes.outputSigma), 1, 100_000),
    patienceMs: drawPatience(random, source),
    maxWaitMs: WAITS_MS[bodyBytes % WAITS_MS.length] ?? 0,
    maxCostPico: random.chance(0.05) ? random.between(1_000_000, 400_000_000) : null,
    breaks: random.chance(0.03),
  }
}

function drawPatience(random: Random, { impatient }: Source): number | null {
  if (impatient) return random.chance(0.8) ? random.between(0, 3000) : null
  return random.chance(0.15) ? random.between(0, 15_000) : null
}

/** Requests that come one by one, `perMinute` of them on average, until `endMs`. */
export function poisson(
  random: Random,
  source: Source,
  span: { readonly fromMs: number; readonly endMs: number; readonly perMinute: number },
): Arrival[] {
  const arrivals: Arrival[] = []
  let atMs = span.fromMs
  for (;;) {
    atMs += random.exponential(60_000 / span.perMinute)
    if (atMs >= span.endMs) return arrivals
    arrivals.push(drawArrival(random, source, Math.floor(atMs)))
  }
}

/** `size` requests at once, again and again, so many a minute on average. */
export function bursts(
  random: Random,
  source: Source,
  span: { fromMs: number; endMs: number; perMinute: number; size: number },
): Arrival[] {
  const arrivals: Arrival[] = []
  let atMs = span.fromMs
  for (;;) {
    atMs += random.exponential((60_000 * span.size) / span.perMinute)
    if (atMs >= span.endMs) return arrivals
    for (let index = 0; index < span.size; index++) {
      arrivals.push(drawArrival(random, source, Math.floor(atMs) + Math.floor(index / 10)))
    }
  }
}

/** A prompt that fills the model's context. */
export function wholeContext(random: Random, source: Source, atMs: number): Arrival {
  const arrival = drawArrival(random, source, atMs)
  const promptTokens = 1_000_000 - random.between(0, 50_000)
  return { ...arrival, promptTokens, cachedTokens: 0, bodyBytes: promptTokens * 4 }
}

function clamp(value: number, low: number, high: number): number {
  return Math.min(high, Math.max(low, Math.round(value)))
}
