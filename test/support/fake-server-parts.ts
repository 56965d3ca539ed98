import type { BackendOptions } from '../../gpu-backend/src/server/backend.ts'
import { PromptEncoder } from '../../gpu-backend/src/server/prompt-encoder.ts'
import { toyTextTokenizer } from './toy-served.ts'

/** A spool in which nothing waits. */
export const noRecords: BackendOptions['records'] = {
  id: 'spool',
  pendingCount: 0,
  pendingAfter: () => [],
  find: () => null,
  acknowledge: () => Promise.resolve(),
}

/** An encoder of the toy's prompts whose thread never answers: for prompts that need none. */
export function encodingHere(): PromptEncoder {
  return new PromptEncoder({
    tokenizer: toyTextTokenizer,
    startThread: () => ({
      postMessage: () => undefined,
      on: () => undefined,
      terminate: () => Promise.resolve(),
    }),
  })
}
