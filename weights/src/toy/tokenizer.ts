import { strict as assert } from 'node:assert'
import { toyCorpus } from './corpus.ts'

/** Literal texts of the control tokens at the front of the vocabulary, ids 0 … 2, as in V4. */
const leadingTokens = ['<｜begin▁of▁sentence｜>', '<｜end▁of▁sentence｜>', '<｜▁pad▁｜>'] as const

/** Those at its end, in V4's order. Matched literally, but not "special" to a decoder. */
const trailingTokens = [
  '<｜fim▁hole｜>',
  '<｜fim▁begin｜>',
  '<｜fim▁end｜>',
  '<｜User｜>',
  '<｜Assistant｜>',
  '<think>',
  '</think>',
  '｜DSML｜',
  '<｜latest_reminder｜>',
  '<｜action｜>',
  '<｜query｜>',
  '<｜authority｜>',
  '<｜domain｜>',
  '<｜title｜>',
  '<｜read_url｜>',
] as const

/** V4's three splits, applied one after the other; what matches is a piece, and so is what is between. */
const splitPatterns = [
  '\\p{N}{1,3}',
  '[一-龥぀-ゟ゠-ヿ]+',
  '[!"#$%&\'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+',
] as const

/**
 * The toy's `tokenizer.json` in the Hugging Face format: byte-level BPE like V4's, with the same
 * splits and control tokens, and exactly `vocabSize` ids, so whatever a model of random weights
 * says can be decoded.
 */
export function toyTokenizer(vocabSize: number): unknown {
  const alphabet = byteAlphabet()
  const mergeCount = vocabSize - leadingTokens.length - alphabet.length - trailingTokens.length
  const merges = learnMerges(corpusPieces(), mergeCount)
  assert(merges.length === mergeCount, 'the corpus is long enough for the vocabulary')
  const base = [...leadingTokens, ...alphabet, ...merges.map(([left, right]) => left + right)]
  assert(new Set(base).size === base.length, 'no two merges make one token')
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: [
      ...leadingTokens.map((content, id) => addedToken(id, content, true)),
      ...trailingTokens.map((content, index) => addedToken(base.length + index, content, false)),
    ],
    normalizer: { type: 'Sequence', normalizers: [] },
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        ...splitPatterns.map((Regex) => ({
          type: 'Split',
          pattern: { Regex },
          behavior: 'Isolated',
          invert: false,
        })),
        { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false },
      ],
    },
    post_processor: {
      type: 'ByteLevel',
      add_prefix_space: true,
      trim_offsets: false,
      use_regex: true,
    },
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      vocab: Object.fromEntries(base.map((token, id) => [token, id])),
      merges: merges.map(([left, right]) => `${left} ${right}`),
    },
  }
}

/** `tokenizer_config.json`: BOS comes from the prompt's text and never from the tokenizer. */
export function toyTokenizerConfig(contextLength: number): unknown {
  return {
    add_bos_token: false,
    add_eos_token: false,
    bos_token: leadingTokens[0],
    eos_token: leadingTokens[1],
    pad_token: leadingTokens[1],
    unk_token: null,
    clean_up_tokenization_spaces: false,
    model_max_length: contextLength,
    tokenizer_class: 'PreTrainedTokenizerFast',
  }
}

function addedToken(id: number, content: string, special: boolean): unknown {
  return {
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special,
  }
}

/** GPT-2's stand-ins for the 256 bytes, in the order of their code points. */
function byteAlphabet(): readonly string[] {
  return byteSymbols().toSorted((a, b) => (a < b ? -1 : 1))
}

/** The stand-in for each byte: itself if it prints in Latin-1, else the next code point from U+0100. */
function byteSymbols(): readonly string[] {
  let next = 0x100
  return Array.from({ length: 256 }, (_, byte) => {
    const printable =
      (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte !== 0xad && byte <= 0xff)
    return String.fromCodePoint(printable ? byte : next++)
  })
}

/** The corpus after the splits, each piece as its bytes' symbols, with how often it occurs. */
function corpusPieces(): { symbols: string[]; count: number }[] {
  const symbols = byteSymbols()
  let pieces = [toyCorpus]
  for (const pattern of splitPatterns) {
    const split = new RegExp(`(${pattern})`, 'u')
    pieces = pieces.flatMap((piece) => piece.split(split)).filter((piece) => piece !== '')
  }
  const counts = new Map<string, number>()
  for (const piece of pieces) counts.set(piece, (counts.get(piece) ?? 0) + 1)
  return [...counts].map(([piece, count]) => ({
    symbols: [...new TextEncoder().encode(piece)].map((byte) => symbols[byte] ?? ''),
    count,
  }))
}

/** Byte-pair encoding as it was defined: join the most frequent pair, again and again. */
function learnMerges(
  pieces: { symbols: string[]; count: number }[],
  mergeCount: number,
): readonly (readonly [string, string])[] {
  const merges: (readonly [string, string])[] = []
  while (merges.length < mergeCount) {
    const best = mostFrequentPair(pieces)
    if (best === null) break
    merges.push(best)
    for (const piece of pieces) piece.symbols = joinPair(piece.symbols, best)
  }
  return merges
}

/** Of equally frequent pairs the one that sorts first, so that the order of pieces has no say. */
function mostFrequentPair(
  pieces: readonly { symbols: readonly string[]; count: number }[],
): readonly [string, string] | null {
  const counts = new Map<string, number>()
  for (const { symbols, count } of pieces) {
    for (let index = 1; index < symbols.length; index++) {
      const pair = `${symbols[index - 1]} ${symbols[index]}`
      counts.set(pair, (counts.get(pair) ?? 0) + count)
    }
  }
  let best: readonly [pair: string, count: number] | null = null
  for (const entry of counts) {
    const [pair, count] = entry
    if (best === null || count > best[1] || (count === best[1] && pair < best[0])) best = entry
  }
  const [left, right] = best?.[0].split(' ') ?? []
  return left === undefined || right === undefined ? null : [left, right]
}

function joinPair(symbols: readonly string[], [left, right]: readonly [string, string]): string[] {
  const joined: string[] = []
  for (let index = 0; index < symbols.length; index++) {
    const symbol = symbols[index] ?? ''
    if (symbol === left && symbols[index + 1] === right) {
      joined.push(left + right)
      index++
    } else {
      joined.push(symbol)
    }
  }
  return joined
}
