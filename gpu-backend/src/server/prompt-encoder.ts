import { encodePrompt, type PromptPiece } from '../text/prompt.ts'
import type { Tokenizer } from '../text/tokenizer.ts'

/** What passes to the encoding thread, and what comes back. */
export interface EncodeCommand {
  readonly pieces: readonly PromptPiece[]
}

export type EncodeReply =
  | { readonly kind: 'encoded'; readonly prompt: Int32Array }
  | { readonly kind: 'failed'; readonly message: string }

/** What the encoder needs of a `node:worker_threads` Worker. */
export interface EncodeThread {
  postMessage(command: EncodeCommand): void
  on(event: 'message', listener: (reply: EncodeReply) => void): unknown
  on(event: 'error', listener: (error: unknown) => void): unknown
  on(event: 'exit', listener: (code: number) => void): unknown
  terminate(): Promise<unknown>
}

/**
 * Prompts of up to so many UTF-16 units are encoded where they are: at some two million units a
 * second that takes about two milliseconds, and a message to another thread is not free either.
 */
export const encodeHereUnitsMax = 4096

interface Waiting {
  readonly pieces: readonly PromptPiece[]
  readonly wanted: () => boolean
  readonly resolve: (prompt: Int32Array | null) => void
  readonly reject: (error: Error) => void
}

/**
 * Prompts to token ids. Long ones go to a thread of their own, one after the other in the order they
 * came; one that nobody wants any more by the time it is its turn is left out.
 */
export class PromptEncoder {
  readonly #tokenizer: Tokenizer
  readonly #startThread: () => EncodeThread
  #thread: EncodeThread | null
  #queue: Waiting[] = []
  #current: Waiting | null = null

  /** The first thread is started at once: it takes about a second to read a large tokenizer. */
  constructor(options: {
    readonly tokenizer: Tokenizer
    readonly startThread: () => EncodeThread
  }) {
    this.#tokenizer = options.tokenizer
    this.#startThread = options.startThread
    this.#thread = this.#started()
  }

  /** The ids, or null when `wanted` said no before it was this prompt's turn. */
  encode(
    pieces: readonly PromptPiece[],
    wanted: () => boolean,
  ): Int32Array | Promise<Int32Array | null> {
    if (unitsOf(pieces) <= encodeHereUnitsMax) return encodePrompt(this.#tokenizer, pieces)
    return new Promise((resolve, reject) => {
      this.#queue.push({ pieces, wanted, resolve, reject })
      this.#next()
    })
  }

  async close(): Promise<void> {
    for (const { reject } of this.#queue.splice(0)) reject(new Error('the encoder was closed'))
    await this.#thread?.terminate()
  }

  #next(): void {
    if (this.#current !== null) return
    for (let next = this.#queue.shift(); next !== undefined; next = this.#queue.shift()) {
      if (next.wanted()) {
        this.#current = next
        this.#thread ??= this.#started()
        this.#thread.postMessage({ pieces: next.pieces })
        return
      }
      next.resolve(null)
    }
  }

  #started(): EncodeThread {
    const thread = this.#startThread()
    thread.on('message', (reply) => {
      const current = this.#current
      this.#current = null
      if (reply.kind === 'encoded') current?.resolve(reply.prompt)
      else current?.reject(new Error(`the prompt could not be encoded: ${reply.message}`))
      this.#next()
    })
    thread.on('error', (error) => {
      this.#lost(thread, error instanceof Error ? error : new Error(String(error)))
    })
    thread.on('exit', (code) => {
      this.#lost(thread, new Error(`the encoding thread ended with code ${code}`))
    })
    return thread
  }

  /** One prompt can take the thread down with it, and only itself: the next has a new one. */
  #lost(thread: EncodeThread, cause: Error): void {
    if (this.#thread !== thread) return
    this.#thread = null
    const current = this.#current
    this.#current = null
    current?.reject(new Error('the encoding thread ended on this prompt', { cause }))
    this.#next()
  }
}

function unitsOf(pieces: readonly PromptPiece[]): number {
  return pieces.reduce((sum, piece) => sum + (piece.kind === 'control' ? 0 : piece.text.length), 0)
}
