import type { DeviceName } from '../device/device.ts'
import type { Numerics } from '../kernels/native/addon.ts'
import type { Quantisation } from '../model/model.ts'
import type { SampledLogprobs, SamplingOptions } from './sampling.ts'
import type { SchedulerLimits } from './scheduler.ts'

/**
 * What passes between the server's thread and the engine's. Token ids and numbers only: text stays
 * on the server's side, tensors on the engine's.
 */
export interface EngineSettings {
  /** Folder or S3 URL of a published checkpoint. */
  readonly checkpoint: string
  readonly device: DeviceName | 'auto'
  readonly quantisation: Quantisation
  readonly numerics: Numerics
  readonly limits: SchedulerLimits
  /** Tokens the model's cache holds, over all running sequences. */
  readonly cacheTokens: number
}

export interface GenerationRequest {
  /** Chosen by the server, never used twice in an engine's life. */
  readonly id: number
  readonly prompt: Int32Array
  readonly outputTokensMax: number
  readonly sampling: SamplingOptions
  /** How many alternatives to report with each token; null: no probabilities at all. */
  readonly topLogprobs: number | null
}

export type EngineCommand =
  | { readonly kind: 'generate'; readonly request: GenerationRequest }
  | { readonly kind: 'cancel'; readonly id: number }

export type EndReason =
  /** The model ended its answer; its end token is the last one generated. */
  | 'stop'
  /** The output limit or the context window was reached. */
  | 'length'
  | 'cancelled'
  /** This request cannot be run; the engine itself is well. */
  | 'refused'

export type EngineEvent =
  /** The first part of the prompt is in the step that comes next. */
  | { readonly kind: 'started'; readonly id: number }
  | {
      readonly kind: 'token'
      readonly id: number
      readonly token: number
      readonly logprobs: SampledLogprobs | null
    }
  /** The last event of a request. `generated` counts every token sampled, an end token too. */
  | {
      readonly kind: 'finished'
      readonly id: number
      readonly reason: EndReason
      readonly generated: number
    }

export interface LoadProgress {
  readonly phase: string
  readonly done: number
  readonly total: number
}

export type EngineReport =
  | { readonly kind: 'progress'; readonly progress: LoadProgress }
  /** A line for the log: why a device is not there, that kernels are compiled. */
  | { readonly kind: 'note'; readonly note: string }
  | { readonly kind: 'ready'; readonly device: string }
  | { readonly kind: 'events'; readonly events: readonly EngineEvent[] }
