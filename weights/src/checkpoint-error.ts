export type CheckpointErrorCode =
  /** Text that is not JSON, is not UTF-8, nests too deep or names one key twice. */
  | 'json_invalid'
  /** A key of config.json is missing, has the wrong type or contradicts another key. */
  | 'config_invalid'
  /** config.json is sound, but describes something other than DeepSeek-V4 as it is implemented. */
  | 'config_unsupported'
  /** A safetensors header that does not describe its file exactly. */
  | 'header_invalid'
  /** model.safetensors.index.json disagrees with itself or with the shards. */
  | 'index_invalid'
  /** sluice-manifest.json breaks its schema or contradicts itself. */
  | 'manifest_invalid'
  /** A checkpoint file that should be there is not. */
  | 'file_missing'
  /** A file's length differs from what its header, its manifest or the ceiling says. */
  | 'file_size'
  /** A whole file's SHA-256 differs from the manifest. */
  | 'file_digest'
  /** The model needs this tensor and no shard has it. */
  | 'tensor_missing'
  /** A tensor the model does not know. */
  | 'tensor_unexpected'
  | 'tensor_dtype'
  | 'tensor_shape'
  /** A tensor's bytes differ from its SHA-256. */
  | 'tensor_digest'
  /** Right bytes, impossible values: a NaN code, an expert that does not exist. */
  | 'tensor_value'
  /** A Python string constant that is not a plain literal. */
  | 'prompt_constants_invalid'

/**
 * A checkpoint that must not be served. `subject` is the tensor, file or key at fault, so that
 * a caller can name it without parsing the message.
 */
export class CheckpointError extends Error {
  readonly code: CheckpointErrorCode
  readonly subject: string

  constructor(code: CheckpointErrorCode, subject: string, message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'CheckpointError'
    this.code = code
    this.subject = subject
  }
}
