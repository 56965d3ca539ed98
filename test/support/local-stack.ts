import OpenAI from 'openai'
import { freePort } from '../../infra/local/ports.ts'
import { startStack } from '../../infra/local/stack.ts'
import type { Stack } from '../../infra/local/stack.ts'

export interface LoggedStack extends Stack {
  /** Every line any part has logged since the start. */
  readonly logLines: readonly string[]
}

/** The stack of `npm start` on a free port, with what it logs kept for looking at. */
export async function startLoggedStack(stateDir: string): Promise<LoggedStack> {
  const logLines: string[] = []
  const stack = await startStack({
    stateDir,
    port: await freePort(),
    device: 'reference',
    onLog: (part, line) => void logLines.push(`[${part}] ${line}`),
    onProgress: (line) => void logLines.push(line),
  })
  return { ...stack, logLines }
}

/** The unmodified OpenAI client, without retries so that a test sees the first answer. */
export function openAiClient(stack: Stack, apiKey: string = stack.apiKey): OpenAI {
  return new OpenAI({ baseURL: `${stack.edgeUrl}/v1`, apiKey, maxRetries: 0 })
}

/** Calls the admin API with the stack's token. */
export function admin(
  stack: Stack,
  method: string,
  path: string,
  body?: unknown,
): Promise<Response> {
  return fetch(`${stack.edgeUrl}${path}`, {
    method,
    headers: {
      authorization: `Bearer ${stack.adminToken}`,
      'content-type': 'application/json',
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  })
}

/** Posts a chat completion, as a value or as it is, without any client in between. */
export function postChat(
  stack: Stack,
  body: unknown,
  init: { apiKey?: string; signal?: AbortSignal } = {},
): Promise<Response> {
  return fetch(`${stack.edgeUrl}/v1/chat/completions`, {
    method: 'POST',
    headers: {
      authorization: `Bearer ${init.apiKey ?? stack.apiKey}`,
      'content-type': 'application/json',
    },
    body: typeof body === 'string' || body instanceof Uint8Array ? body : JSON.stringify(body),
    ...(init.signal === undefined ? {} : { signal: init.signal }),
  })
}
