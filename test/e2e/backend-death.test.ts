import { afterAll, beforeAll, expect, it } from 'vitest'
import { postChat, startLoggedStack } from '../support/local-stack.ts'
import type { LoggedStack } from '../support/local-stack.ts'
import { makeScratch } from '../support/scratch.ts'
import type { Scratch } from '../support/scratch.ts'

let scratch: Scratch
let stack: LoggedStack

beforeAll(async () => {
  scratch = await makeScratch('death')
  stack = await startLoggedStack(scratch.path)
})

afterAll(async () => {
  await stack?.close()
  await scratch?.remove()
})

const body = () => ({
  model: stack.model,
  messages: [{ role: 'user', content: 'Count to a thousand.' }],
  max_tokens: 3000,
})

/** Reads until `seen` is in the text, then returns what came so far. */
async function readUntil(
  reader: ReadableStreamDefaultReader<Uint8Array>,
  seen: RegExp,
): Promise<string> {
  const decoder = new TextDecoder()
  let text = ''
  while (!seen.test(text)) {
    const { done, value } = await reader.read()
    if (done) break
    text += decoder.decode(value, { stream: true })
  }
  return text
}

// In this order: the backend dies once and stays dead.
it('ends a stream whose backend was killed with a typed error and without [DONE]', async () => {
  const response = await postChat(stack, { ...body(), stream: true })
  expect(response.status).toBe(200)
  const reader = response.body?.getReader()
  if (reader === undefined) throw new Error('a stream has a body')
  const before = await readUntil(reader, /"(content|reasoning_content)":"[^"]/)
  expect(before).toMatch(/^: keep-alive/)

  stack.backend.kill('SIGKILL')
  const after = await readUntil(reader, /never matches \0/)

  const events = after.split('\n\n').filter((event) => event.startsWith('data: '))
  const last = JSON.parse(events.at(-1)?.slice('data: '.length) ?? 'null') as unknown
  expect(last).toEqual({
    error: {
      message: expect.any(String),
      type: 'server_error',
      param: null,
      code: 'server_is_overloaded',
    },
  })
  expect(after).not.toContain('[DONE]')
})

it.each([true, false])(
  'answers 503 with Retry-After once it is down (stream: %s)',
  async (stream) => {
    await stack.backend.exited
    const response = await postChat(stack, { ...body(), stream })
    expect(response.status).toBe(503)
    expect(Number(response.headers.get('retry-after'))).toBeGreaterThanOrEqual(1)
    expect(Number(response.headers.get('retry-after-ms'))).toBeGreaterThanOrEqual(1000)
    const { error } = (await response.json()) as { error: { code: string } }
    expect(error.code).toBe('server_is_overloaded')
  },
)
