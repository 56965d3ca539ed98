import type { DeviceName } from '../device/device.ts'
import type { Grammar } from '../grammar/grammar.ts'
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
  /** GPUs that share the model, by the driver's numbers; null: one device. */
  readonly gpus: readonly number[] | null
  readonly quantisation: Quantisation
  readonly numerics: Numerics
  readonly limits: SchedulerLimits
  /** Tokens the model's cache holds, over all running sequences. */
  readonly cacheTokens: number
  /** Beginnings of texts kept in it for prompts to come. */
  readonly prefixesMax: number
  /** Folder for beginnings that have to leave it, and bytes there; null: they are dropped. */
  readonly spill: { readonly folder: string; readonly bytesMax: number } | null
  /** Tokens guessed ahead by the checkpoint's draft head; 0: every token takes a step. */
  readonly draftsMax: number
  /** Routed experts kept on the device, of all layers together, the others in host memory; null: all. */
  readonly expertSlots: number | null
}

export interface GenerationRequest {
  /** Chosen by the server, never used twice in an engine's life. */
  readonly id: number
  readonly prompt: Int32Array
  readonly outputTokensMax: number
  readonly sampling: SamplingOptions
  /** How many alternatives to report with each token; null: no probabilities at all. */
  readonly topLogprobs: number | null
  /** Higher goes first, and is preempted last; a lower one still gets its share. 0 is usual. */
  readonly priority: number
  /** Unix time by which the answer is wanted; null: whenever it comes. */
  readonly deadlineMs: number | null
  /**
   * Prompts share what is cached of them only under the same salt, so that no tenant can tell from
   * the time it takes what another one asked; null: this request shares with nobody.
   */
  readonly cacheSalt: string | null
  /** What the answer is held to; absent: it is free. */
  readonly grammar?: Grammar
}

export type EngineCommand =
  | { readonly kind: 'generate'; readonly request: GenerationRequest }
  | { readonly kind: 'cancel'; readonly id: number }

export type EndReason =
  /** The model ended its answer; its end token is the last one generated. */
  | 'stop'
  /** The output limit, the context window or, with the answer begun, the deadline was reached. */
  | 'length'
  /** The deadline passed, or could no longer be met, before the answer began. */
  | 'expired'
  | 'cancelled'
  /** This request cannot be run; the engine itself is well. */
  | 'refused'

export type EngineEvent =
  /** The first part of the prompt is in the step that comes next; `cachedTokens` need no step. */
  | { readonly kind: 'started'; readonly id: number; readonly cachedTokens: number }
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

/** How the engine stands, and what it has done since it started. */
export interface EngineStats {
  /** Requests that hold a place in the model's cache, and requests that wait for one. */
  readonly running: number
  readonly waiting: number
  /** Tokens that those who wait will feed before their next token. */
  readonly waitingTokens: number
  /** Room for new requests, what would be evicted for them included; in whole pages. */
  readonly cacheTokensFree: number
  readonly cacheTokensMax: number
  /** Prompt tokens the model ran over; those of a preempted request count again. */
  readonly promptTokensTotal: number
  /** Prompt tokens that were found in the cache instead. */
  readonly cachedTokensTotal: number
  readonly generatedTokensTotal: number
  readonly preemptionsTotal: number
  /** Prompts looked up in the prefix cache, and those that found something. */
  readonly prefixQueriesTotal: number
  readonly prefixHitsTotal: number
  /** Tokens guessed by the draft head, and those of them that the model agreed with. */
  readonly draftedTokensTotal: number
  readonly acceptedTokensTotal: number
  readonly stepsTotal: number
  readonly stepSecondsTotal: number
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
  /** Now and then while there is work, and once when it has ended. */
  | { readonly kind: 'stats'; readonly stats: EngineStats }
