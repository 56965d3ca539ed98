import { ApiError } from '#protocol/errors.ts'
import type { Config } from '../config.ts'
import type { EngineClient } from '../engine/client.ts'
import type { Log } from '../log.ts'
import type { KeepUsage } from '../records/recorder.ts'
import type { RecordSpool } from '../records/spool.ts'
import type { PromptEncoder } from './prompt-encoder.ts'
import type { RequestIds } from './request-ids.ts'
import { Requests } from './requests.ts'
import type { ServerMetrics } from './server-metrics.ts'
import { systemFingerprint, type ServedModel } from './served-model.ts'

export interface BackendOptions {
  readonly config: Pick<Config, 'limits' | 'timings' | 'quantisation' | 'numerics'>
  readonly engine: EngineClient
  readonly requestIds: RequestIds
  readonly keepUsage: KeepUsage
  /** Records that the edge does not have yet. */
  readonly records: Pick<
    RecordSpool,
    'id' | 'pendingCount' | 'pendingAfter' | 'find' | 'acknowledge'
  >
  readonly metrics: ServerMetrics
  readonly log: Log
  readonly now: () => number
  readonly random: () => number
  readonly randomId: () => string
}

export type Readiness =
  | { readonly status: 'ready'; readonly model: string; readonly device: string }
  | {
      readonly status: 'loading'
      readonly phase: string
      readonly done: number
      readonly total: number
    }
  | { readonly status: 'draining' }
  | { readonly status: 'failed'; readonly reason: string }

/** What the routes share: the engine behind them, the model it serves, and who is being served. */
export class Backend {
  readonly options: BackendOptions
  readonly requests: Requests
  #loaded: { readonly served: ServedModel; readonly encoder: PromptEncoder } | null = null
  #draining = false

  constructor(options: BackendOptions) {
    this.options = options
    this.requests = new Requests(options.config.limits.resumeUnitsMax)
  }

  /** The tokenizer and the manifest have been read. */
  setServed(served: ServedModel, encoder: PromptEncoder): void {
    this.#loaded = { served, encoder }
  }

  /** null before the manifest has been read. */
  get model(): ServedModel | null {
    return this.#loaded?.served ?? null
  }

  /** Ends the thread that encodes prompts. */
  async close(): Promise<void> {
    await this.#loaded?.encoder.close()
  }

  /** No request is taken from here on. */
  drain(): void {
    this.#draining = true
  }

  readiness(): Readiness {
    const { status } = this.options.engine
    if (status.phase === 'dead') return { status: 'failed', reason: status.error.message }
    if (this.#draining) return { status: 'draining' }
    if (status.phase === 'ready' && this.#loaded !== null) {
      return { status: 'ready', model: this.#loaded.served.id, device: status.device }
    }
    const progress = status.phase === 'loading' ? status.progress : null
    return { status: 'loading', ...(progress ?? { phase: 'starting', done: 0, total: 0 }) }
  }

  /** Throws 503 before the manifest has been read. */
  served(): ServedModel {
    return this.loaded().served
  }

  /** The model with what encodes its prompts. Throws 503 before the manifest has been read. */
  loaded(): { readonly served: ServedModel; readonly encoder: PromptEncoder } {
    if (this.#loaded === null) throw this.unavailable('The model is being loaded.')
    return this.#loaded
  }

  /** Changes with whatever may change answers. Asked for once the engine is ready. */
  fingerprint(): string {
    const { status } = this.options.engine
    return systemFingerprint({
      checkpointHash: this.served().checkpointHash,
      device: status.phase === 'ready' ? status.device : status.phase,
      quantisation: this.options.config.quantisation,
      numerics: this.options.config.numerics,
    })
  }

  /** Throws 503 unless a request could be taken now. */
  requireReady(): void {
    const readiness = this.readiness()
    if (readiness.status === 'loading') throw this.unavailable('The model is being loaded.')
    if (readiness.status === 'draining') throw this.unavailable('This backend is shutting down.')
    if (readiness.status === 'failed') throw this.unavailable('The engine has stopped.')
    if (this.options.records.pendingCount >= this.options.config.limits.spoolRecordsMax) {
      throw this.unavailable('Too many usage records wait for the edge.')
    }
  }

  /** A 503 with a wait of one to two seconds, so that not everyone comes back at once. */
  unavailable(message: string): ApiError {
    return new ApiError('server_is_overloaded', message, {
      retryAfterSeconds: 1 + this.options.random(),
    })
  }
}
