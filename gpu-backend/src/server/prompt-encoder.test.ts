import { EventEmitter } from 'node:events'
import { Worker } from 'node:worker_threads'
import { describe, expect, it } from 'vitest'
import { toyTokenizer } from '#weights/toy/tokenizer.ts'
import { toyTextTokenizer } from '../../../test/support/toy-served.ts'
import { encodePrompt, type PromptPiece } from '../text/prompt.ts'
import {
  encodeHereUnitsMax,
  PromptEncoder,
  type EncodeCommand,
  type EncodeReply,
} from './prompt-encoder.ts'

/** The encoding thread, played by the test. */
class FakeThread extends EventEmitter {
  readonly commands: EncodeCommand[] = []
  terminated = false

  postMessage(command: EncodeCommand): void {
    this.commands.push(command)
  }

  terminate(): Promise<number> {
    this.terminated = true
    return Promise.resolve(0)
  }

  reply(reply: EncodeReply): void {
    this.emit('message', reply)
  }
}

function setUp() {
  const threads: FakeThread[] = []
  const encoder = new PromptEncoder({
    tokenizer: toyTextTokenizer,
    startThread: () => {
      const thread = new FakeThread()
      threads.push(thread)
      return thread
    },
  })
  const thread = (index = 0): FakeThread => {
    const found = threads[index]
    if (found === undefined) throw new Error('not started')
    return found
  }
  return { encoder, threads, thread }
}

const long = (name: string): readonly PromptPiece[] => [
  { kind: 'control', token: '<｜User｜>' },
  { kind: 'text', text: name.repeat(encodeHereUnitsMax + 1) },
]
const wanted = () => true
const ids = (first: number): EncodeReply => ({ kind: 'encoded', prompt: Int32Array.of(first) })

describe('PromptEncoder', () => {
  it('encodes short prompts where they are', () => {
    const { encoder, thread } = setUp()
    const pieces: readonly PromptPiece[] = [{ kind: 'text', text: 'Hello there' }]
    expect(encoder.encode(pieces, wanted)).toEqual(encodePrompt(toyTextTokenizer, pieces))
    expect(thread().commands).toEqual([])
  })

  it('hands long ones over one at a time, in the order they came', async () => {
    const { encoder, thread } = setUp()
    const first = encoder.encode(long('a'), wanted)
    const second = encoder.encode(long('b'), wanted)
    expect(thread().commands).toEqual([{ pieces: long('a') }])
    thread().reply(ids(1))
    expect(await first).toEqual(Int32Array.of(1))
    expect(thread().commands).toHaveLength(2)
    thread().reply(ids(2))
    expect(await second).toEqual(Int32Array.of(2))
  })

  it('leaves out what nobody wants any more when it is its turn', async () => {
    const { encoder, thread } = setUp()
    const first = encoder.encode(long('a'), wanted)
    const gone = encoder.encode(long('b'), () => false)
    const last = encoder.encode(long('c'), wanted)
    thread().reply(ids(1))
    thread().reply(ids(3))
    expect(await Promise.all([first, gone, last])).toEqual([
      Int32Array.of(1),
      null,
      Int32Array.of(3),
    ])
    expect(thread().commands).toEqual([{ pieces: long('a') }, { pieces: long('c') }])
  })

  it('fails one prompt and goes on with the next, on the same thread or on a new one', async () => {
    const { encoder, thread, threads } = setUp()
    const refused = encoder.encode(long('a'), wanted)
    const fatal = encoder.encode(long('b'), wanted)
    const fine = encoder.encode(long('c'), wanted)
    thread().reply({ kind: 'failed', message: 'no such token' })
    await expect(refused).rejects.toThrow('the prompt could not be encoded: no such token')
    thread().emit('error', new Error('out of memory'))
    thread().emit('exit', 1)
    await expect(fatal).rejects.toThrow('the encoding thread ended on this prompt')
    expect(threads).toHaveLength(2)
    thread(1).reply(ids(3))
    expect(await fine).toEqual(Int32Array.of(3))
  })

  it('refuses what waits when it is closed', async () => {
    const { encoder, thread } = setUp()
    const current = encoder.encode(long('a'), wanted)
    const waiting = encoder.encode(long('b'), wanted)
    await Promise.all([
      expect(waiting).rejects.toThrow('the encoder was closed'),
      encoder.close().then(() => thread().emit('exit', 1)),
      expect(current).rejects.toThrow('the encoding thread ended on this prompt'),
    ])
    expect(thread().terminated).toBe(true)
  })

  it('gives on a thread of its own the ids it gives here', async () => {
    const tokenizerJson = new TextEncoder().encode(JSON.stringify(toyTokenizer(512)))
    const worker = new URL('encode-worker.ts', import.meta.url)
    const encoder = new PromptEncoder({
      tokenizer: toyTextTokenizer,
      startThread: () => new Worker(worker, { workerData: tokenizerJson }),
    })
    const pieces: readonly PromptPiece[] = [
      { kind: 'control', token: '<｜User｜>' },
      { kind: 'text', text: 'Many words, 12 numbers and </think> spelt out. '.repeat(400) },
    ]
    const bad = encoder.encode([...pieces, { kind: 'control', token: 'no such' }], wanted)
    const good = encoder.encode(pieces, wanted)
    await expect(bad).rejects.toThrow("has no token 'no such'")
    expect(await good).toEqual(encodePrompt(toyTextTokenizer, pieces))
    await encoder.close()
  })
})
