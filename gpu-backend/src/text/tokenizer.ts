import assert from 'node:assert/strict'
import { Kitoken } from 'kitoken/node'
import { bytesOfEntry } from './byte-alphabet.ts'
import { encodeWindows } from './encode-windows.ts'
import { TokenizerError } from './tokenizer-error.ts'
import { parseTokenizerFile } from './tokenizer-file.ts'
import type { AddedToken, TokenizerFile } from './tokenizer-file.ts'

/** Text to token ids and back, for one checkpoint. */
export interface Tokenizer {
  /** One more than the highest id. Ids below it may be unused. */
  readonly vocabSize: number
  /**
   * Ids of untrusted text. Never yields a control token: text that spells one is encoded as the
   * ordinary characters it is made of.
   */
  encodeText(text: string): number[]
  hasControl(literal: string): boolean
  /** Id of the control token with this literal. Throws `missing_control_token`. */
  controlId(literal: string): number
  /** Cuts trusted text at the control tokens it spells: texts between, and their ids. */
  cutAtControls(text: string): (string | number)[]
  /** Text of the ids; bytes that are no UTF-8 become U+FFFD. Throws `unknown_token_id`. */
  decode(ids: Iterable<number>): string
  /** Decodes piece by piece. Each stream stands for one answer. */
  decodeStream(): DecodeStream
  /** The bytes one token adds to the output; a control token's are its literal's. A view: read only. */
  bytesOf(id: number): Uint8Array
}

export interface DecodeStream {
  /** The text that these ids complete; a character still missing bytes is held back. */
  push(ids: Iterable<number>): string
  /** What was held back, as U+FFFD. */
  flush(): string
}

/** Reads a tokenizer.json: byte-level BPE. Takes about a second for the models' 128 000 merges. */
export function loadTokenizer(tokenizerJson: Uint8Array): Tokenizer {
  return new BpeTokenizer(parseTokenizerFile(tokenizerJson))
}

class BpeTokenizer implements Tokenizer {
  readonly vocabSize: number
  readonly #encoder: Kitoken
  readonly #controls: ReadonlyMap<string, number>
  readonly #controlPattern: RegExp
  readonly #bytes: TokenBytes

  constructor(file: TokenizerFile) {
    this.#encoder = plainEncoder(file)
    this.#controls = new Map(file.added.map(({ id, content }) => [content, id]))
    this.#controlPattern = literalsPattern(file.added)
    this.#bytes = new TokenBytes(file)
    this.vocabSize = this.#bytes.idLimit
  }

  encodeText(text: string): number[] {
    const ids: number[] = []
    for (const window of encodeWindows(text)) {
      for (const id of this.#encoder.encode(window, false)) ids.push(id)
    }
    return ids
  }

  hasControl(literal: string): boolean {
    return this.#controls.has(literal)
  }

  controlId(literal: string): number {
    const id = this.#controls.get(literal)
    if (id === undefined) {
      throw new TokenizerError(
        'missing_control_token',
        `the checkpoint's tokenizer has no token '${literal}'; use the tokenizer.json it came with`,
      )
    }
    return id
  }

  cutAtControls(text: string): (string | number)[] {
    // A pattern with one group splits into texts and literals in turn.
    const parts = text.split(this.#controlPattern)
    return parts
      .map((part, index) => (index % 2 === 1 ? this.controlId(part) : part))
      .filter((part) => part !== '')
  }

  decode(ids: Iterable<number>): string {
    const stream = this.decodeStream()
    return stream.push(ids) + stream.flush()
  }

  decodeStream(): DecodeStream {
    // A byte-order mark is text like any other: without ignoreBOM the first one would vanish.
    const decoder = new TextDecoder('utf-8', { ignoreBOM: true })
    return {
      push: (ids) => {
        let text = ''
        for (const id of ids) text += decoder.decode(this.#bytes.of(id), { stream: true })
        return text
      },
      flush: () => decoder.decode(),
    }
  }

  bytesOf(id: number): Uint8Array {
    return this.#bytes.of(id)
  }
}

/** An encoder that knows no added tokens, fed with checked fields alone. */
function plainEncoder(file: TokenizerFile): Kitoken {
  const json = JSON.stringify({
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: file.preTokenizer,
    post_processor: null,
    decoder: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: false, use_regex: false },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      vocab: Object.fromEntries(file.vocab),
      merges: file.merges,
    },
  })
  try {
    return Kitoken.from_tokenizers(new TextEncoder().encode(json))
  } catch (cause) {
    const message = "the encoder refuses tokenizer.json's patterns or merges"
    throw new TokenizerError('invalid_tokenizer', message, { cause })
  }
}

/** Finds any of the literals, the longest first where one begins another. */
function literalsPattern(added: readonly AddedToken[]): RegExp {
  if (added.length === 0) return /(?!)()/u
  const literals = added
    .map(({ content }) => content)
    .toSorted((a, b) => b.length - a.length)
    .map((literal) => literal.replace(/[$()*+./?[\\\]^{|}]/g, '\\$&'))
  return new RegExp(`(${literals.join('|')})`, 'u')
}

/** The bytes of every token in one block of memory: token id → bytes. */
class TokenBytes {
  readonly idLimit: number
  readonly #all: Uint8Array
  readonly #start: Int32Array
  readonly #length: Int32Array

  constructor(file: TokenizerFile) {
    const tokens = [...vocabBytes(file.vocab), ...addedBytes(file.added)]
    this.idLimit = tokens.reduce((limit, { id }) => Math.max(limit, id + 1), 0)
    this.#all = new Uint8Array(tokens.reduce((size, { bytes }) => size + bytes.length, 0))
    this.#start = new Int32Array(this.idLimit)
    this.#length = new Int32Array(this.idLimit)
    let at = 0
    for (const { id, bytes } of tokens) {
      assert(this.#length[id] === 0, 'an id belongs to one token')
      this.#all.set(bytes, at)
      this.#start[id] = at
      this.#length[id] = bytes.length
      at += bytes.length
    }
  }

  of(id: number): Uint8Array {
    const start = this.#start[id]
    const length = this.#length[id]
    if (start === undefined || length === undefined || length === 0) {
      throw new TokenizerError(
        'unknown_token_id',
        `the tokenizer has no token of id ${id} (ids end at ${this.idLimit - 1})`,
      )
    }
    return this.#all.subarray(start, start + length)
  }
}

/** A token and the bytes it adds to an output. */
export interface BytesOfToken {
  readonly id: number
  readonly bytes: Uint8Array
}

/**
 * Every ordinary token of a tokenizer.json, and of the others those with one of `controls` as their
 * literal. Throws `TokenizerError`.
 */
export function readTokenBytes(
  tokenizerJson: Uint8Array,
  controls: readonly string[],
): readonly BytesOfToken[] {
  const file = parseTokenizerFile(tokenizerJson)
  const wanted = file.added.filter(({ content }) => controls.includes(content))
  return [...vocabBytes(file.vocab), ...addedBytes(wanted)]
}

function vocabBytes(vocab: ReadonlyMap<string, number>): BytesOfToken[] {
  return Array.from(vocab, ([entry, id]) => {
    const bytes = bytesOfEntry(entry)
    if (bytes === undefined) {
      throw new TokenizerError(
        'invalid_tokenizer',
        `tokenizer.json has the entry '${entry}' (id ${id}), which is not in the byte alphabet`,
      )
    }
    return { id, bytes }
  })
}

function addedBytes(added: readonly AddedToken[]): BytesOfToken[] {
  return added.map(({ id, content }) => ({ id, bytes: new TextEncoder().encode(content) }))
}
