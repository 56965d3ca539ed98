export type ModelErrorCode =
  /** No slot left for another sequence, or no page for another token; try again when one has ended. */
  | 'cache_full'
  /** A sequence longer than the model's context, or than its own ceiling. */
  | 'context_exceeded'
  /** Bytes that are no prefix of this cache, or are damaged. */
  | 'prefix_unusable'
  /** A config whose dimensions the kernels cannot take. */
  | 'shape_unsupported'
  /** Fewer places for experts on the device than one token needs at once. */
  | 'expert_slots_too_few'
  /** The checkpoint is sound but does not fit what the model needs of it. */
  | 'weights_mismatch'

export class ModelError extends Error {
  readonly code: ModelErrorCode

  constructor(code: ModelErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'ModelError'
    this.code = code
  }
}
