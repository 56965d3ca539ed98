import OpenAI from 'openai'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { seededRandom } from '../../gpu-backend/src/engine/random.ts'
import { parseStream } from '../support/gpu-backend.ts'
import { startScripted, type ScriptedBackend } from '../support/scripted-backend.ts'

let at: ScriptedBackend

beforeEach(async () => {
  at = await startScripted({
    settings: { SLUICE_MAX_STREAM_BUFFER: '40000', SLUICE_MAX_STREAM_BUFFERS: '80000' },
  })
})

afterEach(() => at.close())

const resumable = { 'x-sluice-resumable': '1' }

/** The engine's side of an answer: words with pauses between them. */
async function speak(words: readonly string[], random: () => number): Promise<void> {
  at.thread.start(1)
  for (const word of words) {
    at.thread.say(1, word)
    if (random() < 0.5) await new Promise((resolve) => setTimeout(resolve, random() * 8))
  }
  at.thread.finish(1, 'stop')
}

/** Reads until so many events have come or there are no more, then leaves; whole events only. */
async function readUpTo(
  response: Response,
  events: number,
  leave: AbortController,
): Promise<ReturnType<typeof parseStream>> {
  const reader = response.body?.getReader()
  const decoder = new TextDecoder()
  let text = ''
  while (parseStream(whole(text)).events.length < events) {
    const read = await reader?.read()
    if (read?.value === undefined) break
    text += decoder.decode(read.value, { stream: true })
  }
  leave.abort()
  return parseStream(whole(text))
}

interface Begun {
  readonly requestId: string
  /** Reads until so many events have come, then leaves. */
  readonly readAndLeave: (events: number) => Promise<ReturnType<typeof parseStream>>
}

async function begin(requestId: string, headers: Record<string, string>): Promise<Begun> {
  const gone = new AbortController()
  const response = await at.caller.chat(
    { stream: true, thinking: { type: 'disabled' } },
    { requestId, headers, signal: gone.signal },
  )
  expect(response.status).toBe(200)
  return {
    requestId,
    readAndLeave: (events) => readUpTo(response, events, gone),
  }
}

const whole = (text: string): string => text.slice(0, text.lastIndexOf('\n\n') + 2)

const resume = (requestId: string, query = '', options: { tenantId?: string } = {}) =>
  at.caller.call(`/v1/requests/${requestId}/events${query}`, undefined, options)

const lastEvent = () => at.backend.requests.stream('req_1', 'tenant-1')?.last

const textOf = (events: readonly unknown[]): string =>
  events
    .map((event) => {
      const { choices } = event as { choices?: { delta: { content?: string } }[] }
      return choices?.[0]?.delta.content ?? ''
    })
    .join('')

async function refusalOf(response: Response): Promise<[number, unknown]> {
  const { error } = (await response.json()) as { error: { code: string; param: string | null } }
  return [response.status, [error.code, error.param]]
}

describe('a resumable stream', () => {
  it('goes on without its client and is taken up where the client was', async () => {
    const begun = await begin('req_1', resumable)
    at.thread.start(1)
    at.thread.say(1, 'One ')
    const first = await begun.readAndLeave(2)
    at.thread.say(1, 'two ')
    const seen = first.ids.length
    await expect.poll(lastEvent).toBeGreaterThan(seen)
    const second = await resume('req_1', `?after=${seen}`)
    at.thread.say(1, 'three')
    at.thread.finish(1, 'stop')
    const rest = parseStream(await second.text())
    const ids = [...first.ids, ...rest.ids]
    expect(ids).toEqual(Array.from(ids, (_, index) => index + 1))
    expect(textOf(first.events) + textOf(rest.events)).toBe('One two three')
    expect(rest.events.at(-1)).toBe('[DONE]')
    expect(at.thread.commands.filter(({ kind }) => kind === 'cancel')).toEqual([])
    expect(at.kept).toMatchObject([{ outcome: 'stop' }])
    expect(at.kept[0]?.deliveredTokens).toBe(at.kept[0]?.completionTokens)
  })

  it.each([1, 2, 3])('loses and doubles nothing, wherever it is cut (seed %i)', async (seed) => {
    const random = seededRandom(seed)
    const words = Array.from({ length: 80 }, (_, index) => `w${index} `)
    const gone = new AbortController()
    let response = await at.caller.chat(
      { stream: true, thinking: { type: 'disabled' } },
      { requestId: 'req_1', headers: { 'x-sluice-resumable': '60' }, signal: gone.signal },
    )
    void speak(words, random)
    let cut = gone
    let seen: ReturnType<typeof parseStream> = { comments: [], events: [], ids: [] }
    while (seen.events.at(-1) !== '[DONE]') {
      const piece = await readUpTo(response, Math.floor(random() * 12), cut)
      seen = {
        ...seen,
        events: [...seen.events, ...piece.events],
        ids: [...seen.ids, ...piece.ids],
      }
      cut = new AbortController()
      response = await at.caller.call(
        `/v1/requests/req_1/events?after=${seen.ids.length}`,
        undefined,
        { signal: cut.signal },
      )
      expect(response.status).toBe(200)
    }
    cut.abort()
    expect(seen.ids).toEqual(Array.from(seen.ids, (_, index) => index + 1))
    expect(textOf(seen.events)).toBe(words.join(''))
    expect(at.kept).toMatchObject([{ outcome: 'stop' }])
  })

  it('has its end kept for a client that missed it, under either name of the position', async () => {
    const begun = await begin('req_1', resumable)
    at.thread.say(1, 'All')
    await begun.readAndLeave(1)
    at.thread.finish(1, 'length')
    await expect.poll(() => at.kept.length).toBe(1)
    const whole = parseStream(await (await resume('req_1')).text())
    const count = whole.ids.length
    expect([textOf(whole.events.slice(0, -1)), whole.events.at(-1)]).toEqual(['All', '[DONE]'])
    const last = await at.caller.call('/v1/requests/req_1/events', undefined, {
      headers: { 'last-event-id': String(count - 1) },
    })
    expect(parseStream(await last.text())).toMatchObject({ ids: [count], events: ['[DONE]'] })
    const nothing = await resume('req_1', `?after=${count}`)
    expect(parseStream(await nothing.text()).events).toEqual([])
  })

  it('goes to the newest connection; the one before is broken off', async () => {
    const response = await at.caller.chat(
      { stream: true },
      { requestId: 'req_1', headers: resumable },
    )
    at.thread.say(1, 'Hi')
    const second = await resume('req_1')
    await expect(response.text()).rejects.toThrow('terminated')
    at.thread.finish(1, 'stop')
    expect(parseStream(await second.text()).events.at(-1)).toBe('[DONE]')
  })

  it('is cancelled when nobody has come for it in time, and then gone', async () => {
    const begun = await begin('req_1', resumable)
    at.thread.say(1, 'Hi')
    await begun.readAndLeave(1)
    expect(await at.thread.next('cancel')).toEqual({ kind: 'cancel', id: 1 })
    at.thread.finish(1, 'cancelled')
    await expect.poll(() => at.kept).toMatchObject([{ outcome: 'cancelled' }])
    expect(await refusalOf(await resume('req_1'))).toEqual([404, ['not_found', null]])
  })

  it('ends in the same typed error for whoever comes when the engine has died', async () => {
    const begun = await begin('req_1', resumable)
    at.thread.say(1, 'Hi')
    await begun.readAndLeave(1)
    at.thread.emit('error', new Error('device lost'))
    await expect.poll(() => at.kept).toMatchObject([{ outcome: 'failed' }])
    const { events } = parseStream(await (await resume('req_1')).text())
    expect(events.at(-1)).toMatchObject({ error: { code: 'server_is_overloaded' } })
    expect(textOf(events.slice(0, -1))).toBe('Hi')
  })

  it('is not resumed from where there is nothing yet, or nothing any more', async () => {
    const begun = await begin('req_1', resumable)
    at.thread.say(1, 'Hi')
    await begun.readAndLeave(2)
    for (const position of ['?after=99', '?after=-1', '?after=x']) {
      expect(await refusalOf(await resume('req_1', position))).toEqual([
        400,
        ['invalid_request_error', 'after'],
      ])
    }
    for (let i = 0; i < 300; i += 1) {
      at.thread.say(1, 'word ')
      await new Promise((resolve) => setImmediate(resolve))
    }
    await expect.poll(lastEvent).toBeGreaterThan(300)
    const [status, why] = await refusalOf(await resume('req_1', '?after=2'))
    expect([status, why]).toEqual([400, ['invalid_request_error', 'after']])
    at.thread.finish(1, 'stop')
  })

  it('belongs to its tenant', async () => {
    await begin('req_1', resumable)
    at.thread.say(1, 'Hi')
    for (const id of ['req_1', 'req_2']) {
      const answer = await resume(id, '', { tenantId: 'tenant-2' })
      expect(await refusalOf(answer)).toEqual([404, ['not_found', null]])
    }
    at.thread.finish(1, 'stop')
  })

  it('keeps no more than all streams together may', async () => {
    for (const id of [1, 2, 3, 4]) {
      const begun = await begin(`req_${id}`, { 'x-sluice-resumable': '300' })
      at.thread.say(id, 'x'.repeat(30_000))
      at.thread.finish(id, 'stop')
      await begun.readAndLeave(4)
    }
    const statuses = await Promise.all([1, 2, 3, 4].map((id) => resume(`req_${id}`)))
    expect(statuses.map(({ status }) => status)).toEqual([404, 404, 200, 200])
  })

  it('reads like any other to the OpenAI client', async () => {
    const client = new OpenAI({
      baseURL: `${at.url}/v1`,
      apiKey: 'unused',
      maxRetries: 0,
      fetch: (url, init) => {
        const path = new URL(url instanceof Request ? url.url : url).pathname
        return at.caller.call(path, init?.body ?? undefined, { headers: resumable })
      },
    })
    const stream = await client.chat.completions.create({
      model: 'deepseek-v4-toy',
      messages: [{ role: 'user', content: 'Hello' }],
      stream: true,
    })
    at.thread.say(1, 'So be it.</think>Yes.')
    at.thread.finish(1, 'stop')
    const reasons: unknown[] = []
    let text = ''
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? ''
      reasons.push(chunk.choices[0]?.finish_reason)
    }
    expect([text, reasons.at(-1)]).toEqual(['Yes.', 'stop'])
  })
})

describe('a stream that did not ask for it', () => {
  it('has no ids and cannot be taken up', async () => {
    const response = await at.caller.chat({ stream: true }, { requestId: 'req_1' })
    at.thread.say(1, 'Hi')
    expect((await resume('req_1')).status).toBe(404)
    at.thread.finish(1, 'stop')
    expect(await response.text()).not.toContain('id: ')
  })

  it.each(['0', '301', 'yes'])('is refused a grace of %s', async (seconds) => {
    const headers = { 'x-sluice-resumable': seconds }
    const response = await at.caller.chat({ stream: true }, { headers })
    expect(await refusalOf(response)).toEqual([
      400,
      ['invalid_request_error', 'x-sluice-resumable'],
    ])
  })

  it('is an ordinary whole answer when it is no stream at all', async () => {
    const pending = at.caller.chat({ thinking: { type: 'disabled' } }, { headers: resumable })
    await at.thread.next('generate')
    at.thread.say(1, 'Hi')
    at.thread.finish(1, 'stop')
    expect(await (await pending).json()).toMatchObject({
      choices: [{ message: { content: 'Hi' } }],
    })
  })
})
