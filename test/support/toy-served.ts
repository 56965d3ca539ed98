import { toyTokenizer } from '#weights/toy/tokenizer.ts'
import type { ServedModel } from '../../gpu-backend/src/server/served-model.ts'
import { EOS, THINK_END } from '../../gpu-backend/src/text/control-tokens.ts'
import { loadTokenizer, type Tokenizer } from '../../gpu-backend/src/text/tokenizer.ts'

export const toyTextTokenizer: Tokenizer = loadTokenizer(
  new TextEncoder().encode(JSON.stringify(toyTokenizer(512))),
)

/** A served model with the toy's tokenizer and prompt texts short enough to read. */
export function toyServed(changes: Partial<ServedModel> = {}): ServedModel {
  return {
    id: 'deepseek-v4-toy',
    release: 'preview',
    checkpointHash: 'c0ffee',
    constants: { toolsHead: 'HEAD\n', toolsTail: '\nTAIL', effortMax: 'MAX ' },
    tokenizer: toyTextTokenizer,
    endToken: toyTextTokenizer.controlId(EOS),
    thinkEndToken: toyTextTokenizer.controlId(THINK_END),
    contextTokens: 4096,
    entry: {
      id: 'deepseek-v4-toy',
      object: 'model',
      created: 1776988800,
      owned_by: 'deepseek',
      name: 'DeepSeek-V4-Toy',
      context_window: 4096,
      max_output_tokens: 4096,
      input_modalities: ['text'],
      output_modalities: ['text'],
      effort: { supported_levels: ['high', 'max'], default_level: 'high' },
    },
    ...changes,
  }
}

/** Token ids of a text in which control tokens are spelt out and meant. */
export function tokensOf(text: string): number[] {
  return toyTextTokenizer
    .cutAtControls(text)
    .flatMap((part) => (typeof part === 'number' ? [part] : toyTextTokenizer.encodeText(part)))
}
