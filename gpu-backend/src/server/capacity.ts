import {
  REPORT_PROGRESS_MAX,
  type CapacityReport,
  type ReporterClaims,
} from '#protocol/capacity-report.ts'
import type { Backend } from './backend.ts'
import { RateWindow } from './rate-window.ts'

/** Rates are measured over this long: several steps of a long prefill, and no more. */
const windowMs = 5000

/** Makes capacity reports, each with a number of its own. */
export class CapacityMeter {
  readonly #backend: Backend
  readonly #claims: ReporterClaims
  readonly #now: () => number
  readonly #rates = new RateWindow(windowMs)
  #seq = 0

  constructor(options: {
    readonly backend: Backend
    readonly claims: ReporterClaims
    readonly now: () => number
  }) {
    this.#backend = options.backend
    this.#claims = options.claims
    this.#now = options.now
  }

  get claims(): ReporterClaims {
    return this.#claims
  }

  /** How things stand now. */
  report(): CapacityReport {
    this.#seq += 1
    const atMs = this.#now()
    const { engine, config } = this.#backend.options
    const { stats } = engine
    const rates = this.#rates.add(atMs, {
      prompt: stats?.promptTokensTotal ?? 0,
      generated: stats?.generatedTokensTotal ?? 0,
    })
    const draining = this.#backend.readiness().status !== 'ready'
    const model = this.#backend.model
    return {
      version: 1,
      ...this.#claims,
      seq: this.#seq,
      atMs,
      // Before its first statistics an engine has not touched its cache.
      freeCacheTokens: stats?.cacheTokensFree ?? config.limits.cacheTokens,
      cacheTokensMax: stats?.cacheTokensMax ?? config.limits.cacheTokens,
      ...this.#queue(),
      prefillTokensPerSecond: rates.prefill,
      decodeTokensPerSecond: rates.decode,
      draining,
      models: model === null ? [] : [model.id],
      progress: this.#backend.requests.progress().slice(0, REPORT_PROGRESS_MAX),
    }
  }

  /**
   * The engine's statistics lag behind what was handed to it a moment ago, which the edge must not
   * take for free places: what is under way and does not run, waits.
   */
  #queue(): Pick<CapacityReport, 'running' | 'waiting' | 'waitingTokens'> {
    const { engine } = this.#backend.options
    const { stats } = engine
    const known = this.#backend.requests.waiting()
    const running = Math.min(stats?.running ?? 0, engine.underWay)
    return {
      running,
      waiting: engine.underWay - running,
      waitingTokens: Math.max(stats?.waitingTokens ?? 0, known.promptTokens),
    }
  }
}
