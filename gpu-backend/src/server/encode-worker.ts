import { strict as assert } from 'node:assert'
import { parentPort, workerData } from 'node:worker_threads'
import { encodePrompt } from '../text/prompt.ts'
import { loadTokenizer } from '../text/tokenizer.ts'
import type { EncodeCommand, EncodeReply } from './prompt-encoder.ts'

/** The encoding thread: the bytes of a tokenizer.json come with it, prompts one at a time. */
const port = parentPort
assert(port !== null, 'this module runs as a worker thread')
const tokenizer = loadTokenizer(workerData as Uint8Array)

function answer({ pieces }: EncodeCommand): EncodeReply {
  try {
    return { kind: 'encoded', prompt: encodePrompt(tokenizer, pieces) }
  } catch (error) {
    return { kind: 'failed', message: error instanceof Error ? error.message : String(error) }
  }
}

port.on('message', (command: EncodeCommand) => {
  const reply = answer(command)
  port.postMessage(reply, reply.kind === 'encoded' ? [reply.prompt.buffer as ArrayBuffer] : [])
})
