import { createHash } from 'node:crypto'
import { LIMITS } from '#protocol/chat-completions.ts'
import type { ModelEntry } from '#protocol/models.ts'
import type { Checkpoint } from '#weights/checkpoint.ts'
import type { PromptConstants, Release } from '#weights/manifest.ts'
import type { Limits } from '../config.ts'
import { engineVersion } from '../engine/version.ts'
import type { Numerics } from '../kernels/native/addon.ts'
import type { Quantisation } from '../model/model.ts'
import { EOS, THINK_END } from '../text/control-tokens.ts'
import { loadTokenizer, type Tokenizer } from '../text/tokenizer.ts'
import { supportedEffort } from './effort.ts'

/** What the server has to know of the checkpoint behind it. */
export interface ServedModel {
  readonly id: string
  readonly release: Release
  readonly checkpointHash: string
  readonly constants: PromptConstants
  readonly tokenizer: Tokenizer
  readonly endToken: number
  readonly thinkEndToken: number
  /** Ceiling of prompt and answer together. */
  readonly contextTokens: number
  readonly entry: ModelEntry
}

/** When the weights of a release came out, in Unix seconds. */
const releasedAt: Readonly<Record<Release, number>> = {
  preview: Date.UTC(2026, 3, 24) / 1000,
  '0731': Date.UTC(2026, 6, 31) / 1000,
}

/** Reads the tokenizer (about a second for the released ones) and the rest from the manifest. */
export function servedModel(
  checkpoint: Pick<Checkpoint, 'manifest' | 'config'>,
  tokenizerJson: Uint8Array,
  limits: Pick<Limits, 'contextTokensMax' | 'cacheTokens'>,
): ServedModel {
  const { manifest, config } = checkpoint
  const tokenizer = loadTokenizer(tokenizerJson)
  const trained = config.maxPositionEmbeddings
  const contextTokens = Math.min(trained, limits.contextTokensMax ?? trained, limits.cacheTokens)
  return {
    id: manifest.modelId,
    release: manifest.release,
    checkpointHash: manifest.checkpointHash,
    constants: manifest.promptConstants,
    tokenizer,
    endToken: tokenizer.controlId(EOS),
    thinkEndToken: tokenizer.controlId(THINK_END),
    contextTokens,
    entry: {
      id: manifest.modelId,
      object: 'model',
      created: releasedAt[manifest.release],
      owned_by: 'deepseek',
      name: displayName(manifest.modelId),
      context_window: contextTokens,
      max_output_tokens: Math.min(LIMITS.maxTokens, contextTokens),
      input_modalities: ['text'],
      output_modalities: ['text'],
      effort: supportedEffort(manifest.release, manifest.promptConstants),
    },
  }
}

/** `deepseek-v4-flash` as people write it: DeepSeek-V4-Flash. */
function displayName(id: string): string {
  return id
    .split('-')
    .map((word) =>
      word === 'deepseek' ? 'DeepSeek' : word.charAt(0).toUpperCase() + word.slice(1),
    )
    .join('-')
}

/** Changes whenever weights, number formats, device or engine do: whenever answers may. */
export function systemFingerprint(parts: {
  readonly checkpointHash: string
  readonly device: string
  readonly quantisation: Quantisation
  readonly numerics: Numerics
}): string {
  const { checkpointHash, device, quantisation, numerics } = parts
  const hash = createHash('sha256')
  hash.update([checkpointHash, engineVersion, device, quantisation, numerics].join('\n'))
  return `fp_${hash.digest('hex').slice(0, 12)}`
}
