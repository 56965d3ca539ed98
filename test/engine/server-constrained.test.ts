import { join } from 'node:path'
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { z } from 'zod'
import { parseConfig } from '../../gpu-backend/src/config.ts'
import { createLog } from '../../gpu-backend/src/log.ts'
import { startBackend, type RunningBackend } from '../../gpu-backend/src/server/start.ts'
import {
  backendEnv,
  callerOf,
  makeServiceKeys,
  publishToy,
  startFakeEdge,
  type BackendCaller,
  type FakeEdge,
} from '../support/gpu-backend.ts'
import { makeScratch, type Scratch } from '../support/scratch.ts'

let scratch: Scratch
let edge: FakeEdge
let backend: RunningBackend
let caller: BackendCaller
let client: OpenAI

beforeAll(async () => {
  scratch = await makeScratch('constrained')
  const keys = await makeServiceKeys()
  edge = await startFakeEdge(keys)
  const config = await parseConfig(
    backendEnv({
      keys,
      checkpoint: await publishToy(scratch.path),
      spoolDir: join(scratch.path, 'spool'),
      edgeUrl: edge.url,
      changes: { SLUICE_DEVICE: 'auto' },
    }),
  )
  const log = createLog({ level: 'error', write: () => undefined, now: Date.now })
  backend = await startBackend({ config, env: {}, log, now: Date.now, random: Math.random })
  caller = callerOf(backend.url, keys)
  await backend.ready
  client = new OpenAI({
    baseURL: `${backend.url}/v1`,
    apiKey: 'unused',
    maxRetries: 0,
    fetch: (_, init) => caller.call('/v1/chat/completions', init?.body ?? ''),
  })
})

afterAll(async () => {
  await backend?.shutdown()
  await edge?.close()
  await scratch?.remove()
})

const model = 'deepseek-v4-toy'
const messages = [{ role: 'user' as const, content: 'Answer in JSON.' }]
/** Not of OpenAI's fields; every client sends it as it is. */
const off = { thinking: { type: 'disabled' } } as object
const ask = { model, messages, max_tokens: 120, seed: 3, ...off }

const weather = {
  type: 'object',
  properties: {
    city: { type: 'string' },
    days: { type: 'integer', minimum: 1, maximum: 14 },
    units: { enum: ['celsius', 'kelvin', null] },
  },
  required: ['city', 'days', 'units'],
  additionalProperties: false,
}
const weatherShape = z.strictObject({
  city: z.string(),
  days: z.int().min(1).max(14),
  units: z.enum(['celsius', 'kelvin']).nullable(),
})

function tool(name: string, parameters: Record<string, unknown>, strict = true) {
  return { type: 'function' as const, function: { name, parameters, strict } }
}

async function refusalOf(body: object): Promise<unknown[]> {
  const error = await client.chat.completions
    .create({ ...ask, ...body } as OpenAI.ChatCompletionCreateParamsNonStreaming)
    .catch((caught: unknown) => caught)
  if (!(error instanceof OpenAI.APIError)) throw new Error('it was not refused')
  return [error.status, error.code, error.param]
}

describe('happy', () => {
  it('answers in JSON where that is asked for, whole and streamed', async () => {
    const body = { ...ask, response_format: { type: 'json_object' as const } }
    const whole = await client.chat.completions.create(body)
    const [choice] = whole.choices
    expect(choice?.finish_reason).toBe('stop')
    expect(JSON.parse(choice?.message.content ?? '')).toBeTypeOf('object')
    let streamed = ''
    for await (const chunk of await client.chat.completions.create({ ...body, stream: true })) {
      streamed += chunk.choices[0]?.delta.content ?? ''
    }
    expect(streamed).toBe(choice?.message.content)
  })

  it('answers by a schema', async () => {
    const { choices } = await client.chat.completions.create({
      ...ask,
      response_format: { type: 'json_schema', json_schema: { name: 'weather', schema: weather } },
    })
    expect(choices[0]?.finish_reason).toBe('stop')
    weatherShape.parse(JSON.parse(choices[0]?.message.content ?? ''))
  })

  it.each([
    ['some call', 'required' as const],
    ['a certain one', { type: 'function' as const, function: { name: 'weather' } }],
  ])('makes %s where that is forced, its arguments by their schema', async (_, choice) => {
    const { choices } = await client.chat.completions.create({
      ...ask,
      max_tokens: 400,
      tools: [tool('weather', weather)],
      tool_choice: choice,
    })
    const [answer] = choices
    const calls = answer?.message.tool_calls ?? []
    expect(answer?.finish_reason).toBe('tool_calls')
    expect(answer?.message.content ?? '').toBe('')
    expect(calls.length).toBeGreaterThanOrEqual(1)
    if (choice !== 'required') expect(calls.length).toBe(1)
    for (const call of calls) {
      if (call.type !== 'function') throw new Error('a call of a function')
      expect(call.function.name).toBe('weather')
      weatherShape.parse(JSON.parse(call.function.arguments))
    }
  })

  it('makes a forced call whose arguments no schema is held to', async () => {
    const loose = { type: 'object', properties: { a: { type: 'string', pattern: '^x' } } }
    const { choices } = await client.chat.completions.create({
      ...ask,
      max_tokens: 300,
      tools: [tool('other', loose, false)],
      tool_choice: 'required',
    })
    expect(choices[0]?.finish_reason).toBe('tool_calls')
  })

  it('leaves the answer to the model where strict tools may be called, not must', async () => {
    const { choices } = await client.chat.completions.create({
      ...ask,
      max_tokens: 5,
      tools: [tool('weather', weather)],
    })
    expect(['length', 'stop', 'tool_calls']).toContain(choices[0]?.finish_reason)
  })
})

const responseSchema = (schema: unknown) => ({
  response_format: { type: 'json_schema', json_schema: { name: 'x', schema } },
})

/** Nests `levels` deep; written by hand, since no serializer would. */
const deepBody = (levels: number, field: string): string =>
  JSON.stringify({ ...ask, ...responseSchema('DEEP') })
    .replace('"DEEP"', `${'{"items":'.repeat(levels)}{}${'}'.repeat(levels)}`)
    .replace('response_format', field)

describe('errors', () => {
  it.each<[string, object, string]>([
    ['17 stop strings', { stop: Array.from({ length: 17 }, () => 'x') }, 'stop'],
    ['a stop string of a megabyte', { stop: 'x'.repeat(1_000_000) }, 'stop'],
    ['a temperature that is text', { temperature: 'NaN' }, 'temperature'],
    [
      'a schema that is missing',
      { response_format: { type: 'json_schema' } },
      'response_format.json_schema.schema',
    ],
    [
      'a schema it cannot hold',
      responseSchema({ type: 'string', pattern: 'x' }),
      'response_format.json_schema.schema.pattern',
    ],
    [
      'an enumeration without end',
      responseSchema({ enum: Array.from({ length: 50_000 }, (_, index) => `v${index}`) }),
      'response_format.json_schema.schema',
    ],
    [
      'a forced call while thinking',
      { thinking: { type: 'enabled' }, tools: [tool('weather', weather)], tool_choice: 'required' },
      'tool_choice',
    ],
    ['a forced call without tools', { tool_choice: 'required' }, 'tool_choice'],
    [
      'a strict tool with minLength',
      {
        tools: [
          tool('x', {
            type: 'object',
            properties: { a: { type: 'string', minLength: 1 } },
            required: ['a'],
            additionalProperties: false,
          }),
        ],
      },
      'tools[0].function.parameters.properties.a.minLength',
    ],
  ])('refuses %s by the name of its field', async (_, body, param) => {
    expect(await refusalOf(body)).toEqual([400, 'invalid_request_error', param])
  })

  it.each(['NaN', 'Infinity', '-Infinity'])('refuses a temperature of %s', async (value) => {
    const body = JSON.stringify({ ...ask, temperature: 7 }).replace(':7', `: ${value}`)
    const response = await caller.call('/v1/chat/completions', body)
    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({ error: { param: 'temperature' } })
  })

  it('refuses a temperature beyond every number', async () => {
    const body = JSON.stringify({ ...ask, temperature: 7 }).replace(':7', ':1e999')
    const response = await caller.call('/v1/chat/completions', body)
    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({ error: { param: 'temperature' } })
  })

  it.each([200, 200_000])('refuses a schema %i levels deep', async (levels) => {
    const response = await caller.call('/v1/chat/completions', deepBody(levels, 'response_format'))
    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({ error: { param: 'response_format' } })
  })

  it('refuses a prompt of 10 MB', async () => {
    const content = 'many words '.repeat(1_000_000)
    const response = await caller.chat({ messages: [{ role: 'user', content }] })
    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({
      error: { code: 'context_length_exceeded', param: 'messages' },
    })
  })

  it('refuses bytes that are not UTF-8 by the name of the field they are in', async () => {
    const text = JSON.stringify({ ...ask, messages: [{ role: 'user', content: 'ab#d' }] })
    const bytes = new TextEncoder().encode(text)
    bytes[bytes.indexOf(0x23)] = 0xff
    const response = await caller.call('/v1/chat/completions', bytes)
    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({
      error: { code: 'invalid_request_error', param: 'messages[0].content' },
    })
  })

  it('still answers after all that', async () => {
    const { choices } = await client.chat.completions.create({ ...ask, max_tokens: 2 })
    expect(choices.length).toBe(1)
  })
})
