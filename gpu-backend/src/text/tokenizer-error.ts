export type TokenizerErrorCode =
  /** The file is not what a tokenizer.json looks like, or contradicts itself. */
  | 'invalid_tokenizer'
  /** A tokenizer.json, but of another kind than the models use. */
  | 'unsupported_tokenizer'
  | 'missing_control_token'
  | 'unknown_token_id'

/** A tokenizer file that cannot be used, or a token that it does not have. */
export class TokenizerError extends Error {
  override readonly name = 'TokenizerError'
  readonly code: TokenizerErrorCode

  constructor(code: TokenizerErrorCode, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}
