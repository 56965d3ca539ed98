import { z } from 'zod'
import { letterOfByte } from './byte-alphabet.ts'
import { TokenizerError } from './tokenizer-error.ts'

/** A token that is matched by its literal text and never made by merging. */
export interface AddedToken {
  readonly id: number
  readonly content: string
}

/** A byte-level BPE tokenizer, checked. `vocab` holds the ordinary tokens alone. */
export interface TokenizerFile {
  readonly added: readonly AddedToken[]
  /** Entry in the byte alphabet → id. */
  readonly vocab: ReadonlyMap<string, number>
  /** In order of rank; no merge touches an added token. */
  readonly merges: readonly (readonly [string, string])[]
  readonly preTokenizer: z.infer<typeof preTokenizerSchema>
}

const fileBytesMax = 64 * 1024 * 1024
/** Bound on ids, and so on every table: eight times the models' vocabulary. */
const idLimit = 1 << 20
const entryCharsMax = 1024

const off = z.union([z.literal(false), z.null()]).optional()
const none = z.union([z.literal(''), z.null()]).optional()

const addedTokenSchema = z.object({
  id: z
    .int()
    .min(0)
    .max(idLimit - 1),
  content: z.string().min(1).max(entryCharsMax),
  single_word: off,
  lstrip: off,
  rstrip: off,
})

const splitSchema = z.object({
  type: z.literal('Split'),
  pattern: z.object({ Regex: z.string().min(1).max(1024) }),
  behavior: z.literal('Isolated'),
  invert: z.literal(false),
})

const byteLevelSchema = z.object({
  type: z.literal('ByteLevel'),
  add_prefix_space: z.literal(false),
  trim_offsets: z.boolean().optional(),
  use_regex: z.literal(false),
})

/** Splits by pattern, then bytes: nothing that would change the text on its way. */
const preTokenizerSchema = z.object({
  type: z.literal('Sequence'),
  pretokenizers: z
    .array(z.discriminatedUnion('type', [splitSchema, byteLevelSchema]))
    .min(1)
    .max(16)
    .refine((steps) => steps.findIndex((step) => step.type === 'ByteLevel') === steps.length - 1, {
      error: 'must be splits with one ByteLevel at the end',
    }),
})

const fileSchema = z.object({
  added_tokens: z.array(addedTokenSchema).max(65_536),
  normalizer: z
    .union([z.null(), z.object({ type: z.literal('Sequence'), normalizers: z.array(z.never()) })])
    .optional(),
  pre_tokenizer: preTokenizerSchema,
  model: z.object({
    type: z.literal('BPE'),
    dropout: z.null().optional(),
    unk_token: z.null().optional(),
    continuing_subword_prefix: none,
    end_of_word_suffix: none,
    byte_fallback: off,
    ignore_merges: off,
    // Large; checked by hand below, because a schema would copy them.
    vocab: z.custom<object>((value) => typeof value === 'object' && value !== null),
    merges: z.array(z.unknown()).max(idLimit),
  }),
})

/** Reads a tokenizer.json. Throws `TokenizerError`; trusts nothing about the bytes. */
export function parseTokenizerFile(bytes: Uint8Array): TokenizerFile {
  const parsed = fileSchema.safeParse(parsedJson(bytes))
  if (!parsed.success) {
    const reason = z.prettifyError(parsed.error).slice(0, 1000)
    throw new TokenizerError(
      'unsupported_tokenizer',
      `tokenizer.json is not a byte-level BPE tokenizer of the models' kind: ${reason}`,
    )
  }
  const { added_tokens: added, model, pre_tokenizer: preTokenizer } = parsed.data
  const addedIds = checkAdded(added)
  const vocab = ordinaryVocab(model.vocab, added, addedIds)
  for (const letter of letterOfByte) {
    if (!vocab.has(letter)) throw invalid(`has no token for the byte '${letter}'`)
  }
  return { added, vocab, merges: ordinaryMerges(model.merges, vocab, model.vocab), preTokenizer }
}

function parsedJson(bytes: Uint8Array): unknown {
  if (bytes.byteLength > fileBytesMax) {
    throw invalid(`is ${bytes.byteLength} bytes long; at most ${fileBytesMax} are read`)
  }
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes)
    return JSON.parse(text)
  } catch (cause) {
    throw new TokenizerError('invalid_tokenizer', 'tokenizer.json is not JSON in UTF-8', { cause })
  }
}

function invalid(problem: string): TokenizerError {
  return new TokenizerError('invalid_tokenizer', `tokenizer.json ${problem}`)
}

function checkAdded(added: readonly AddedToken[]): ReadonlySet<number> {
  const ids = new Set<number>()
  const contents = new Set<string>()
  for (const { id, content } of added) {
    if (ids.has(id)) throw invalid(`gives the id ${id} to two added tokens`)
    if (contents.has(content)) throw invalid(`has the added token '${content}' twice`)
    ids.add(id)
    contents.add(content)
  }
  return ids
}

/**
 * The vocabulary without added tokens. Some files list those in both places; left in, a plain
 * encoder could make a control token out of text.
 */
function ordinaryVocab(
  source: object,
  added: readonly AddedToken[],
  addedIds: ReadonlySet<number>,
): Map<string, number> {
  const idOfAdded = new Map(added.map(({ id, content }) => [content, id]))
  const vocab = new Map<string, number>()
  const seen = new Set<number>()
  for (const [entry, id] of Object.entries(source) as [string, unknown][]) {
    if (typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id >= idLimit) {
      throw invalid(`gives the vocabulary entry '${entry.slice(0, 64)}' no usable id`)
    }
    if (entry === '' || entry.length > entryCharsMax) {
      throw invalid(`has a vocabulary entry of ${entry.length} characters (id ${id})`)
    }
    if (seen.has(id)) throw invalid(`gives the id ${id} to two vocabulary entries`)
    seen.add(id)
    const asAdded = idOfAdded.get(entry)
    if (asAdded !== undefined || addedIds.has(id)) {
      if (asAdded === id) continue
      throw invalid(`disagrees with itself about the token '${entry.slice(0, 64)}' (id ${id})`)
    }
    vocab.set(entry, id)
  }
  return vocab
}

/** The merges of ordinary tokens; those that touch an added token are dropped with it. */
function ordinaryMerges(
  source: readonly unknown[],
  vocab: ReadonlyMap<string, number>,
  whole: object,
): [string, string][] {
  const merges: [string, string][] = []
  for (const [rank, entry] of source.entries()) {
    const pair = mergePair(entry)
    if (pair === undefined) throw invalid(`has a merge of rank ${rank} that is no pair`)
    const touched = [pair[0], pair[1], pair[0] + pair[1]]
    const stranger = touched.find((part) => !Object.hasOwn(whole, part))
    if (stranger !== undefined) {
      throw invalid(
        `merges into or from '${stranger.slice(0, 64)}' (rank ${rank}), which is no entry`,
      )
    }
    if (touched.every((part) => vocab.has(part))) merges.push(pair)
  }
  return merges
}

/** Both spellings in use: `"a b"` and `["a", "b"]`. */
function mergePair(entry: unknown): [string, string] | undefined {
  const parts: unknown = typeof entry === 'string' ? entry.split(' ') : entry
  if (!Array.isArray(parts) || parts.length !== 2) return undefined
  const [left, right] = parts as unknown[]
  return typeof left === 'string' && typeof right === 'string' ? [left, right] : undefined
}
