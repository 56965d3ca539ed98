import { beforeAll, describe, expect, it } from 'vitest'
import { toyTokenizer } from '#weights/toy/tokenizer.ts'
import { readV3TokenizerJson, withV4ControlTokens } from '../../../test/support/v4-tokenizer.ts'
import { seededRandom } from '../engine/random.ts'
import { letterOfByte } from './byte-alphabet.ts'
import { encodeWindows } from './encode-windows.ts'
import { encodePrompt } from './prompt.ts'
import { TokenizerError } from './tokenizer-error.ts'
import { loadTokenizer } from './tokenizer.ts'
import type { Tokenizer } from './tokenizer.ts'

interface FileJson {
  added_tokens: { id: number; content: string }[]
  pre_tokenizer: { pretokenizers: { pattern?: { Regex: string } }[] }
  model: { vocab: Record<string, number>; merges: string[] }
}

const bytes = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value))
const toyFile = (): FileJson => toyTokenizer(512) as FileJson

function codeOf(run: () => unknown): string {
  try {
    run()
  } catch (error) {
    if (error instanceof TokenizerError) return error.code
    throw error
  }
  return 'accepted'
}

/** BPE as it is defined, slow and from the file itself: what the encoder is compared with. */
function referenceEncoder(file: FileJson): (text: string) => number[] {
  const patterns = file.pre_tokenizer.pretokenizers
    .flatMap(({ pattern }) => pattern?.Regex ?? [])
    // JavaScript's \s counts U+FEFF and not U+0085; the file means the Unicode property.
    .map((source) =>
      source.replaceAll('\\s', '\\p{White_Space}').replaceAll('\\S', '\\P{White_Space}'),
    )
    .map((source) => new RegExp(`(${source})`, 'u'))
  const rank = new Map(file.model.merges.map((merge, index) => [merge, index]))
  const merged = (word: string): string[] => {
    let parts = Array.from(new TextEncoder().encode(word), (byte) => letterOfByte[byte] ?? '')
    for (;;) {
      const ranks = parts.slice(1).map((part, at) => rank.get(`${parts[at]} ${part}`) ?? Infinity)
      const best = Math.min(...ranks)
      if (best === Infinity) return parts
      const at = ranks.indexOf(best)
      parts = [...parts.slice(0, at), parts.slice(at, at + 2).join(''), ...parts.slice(at + 2)]
    }
  }
  return (text) => {
    let words = [text]
    for (const pattern of patterns) words = words.flatMap((word) => word.split(pattern))
    return words
      .filter((word) => word !== '')
      .flatMap(merged)
      .map((part) => file.model.vocab[part] ?? -1)
  }
}

const alphabet = [
  'a b e th ing The 𝒶 𝟎 é ß ж я 中 的 の ア 한 e\u0301 0 7 12345 ٣ ½'.split(' '),
  '. , ! // " \'s ( _ | < > ｜ ▁ ， € + 😀 👩‍🚀 </think>'.split(' '),
  [' ', '  ', '\n', '\r\n', '\t', '\u00a0', '\u3000', '\u0085', '\u2028', '\u200b', '\ufeff'],
  ['\u0000', '\u0001', '\u007f', '\u00ad', '\u{10ffff}'],
].flat()

function randomText(random: () => number, pieces: number): string {
  let text = ''
  for (let count = 0; count < pieces; count += 1) {
    text += alphabet[Math.floor(random() * alphabet.length)] ?? ''
  }
  return text
}

describe('the real vocabulary under V4 control tokens', () => {
  let tokenizer: Tokenizer
  let file: FileJson

  beforeAll(() => {
    const json = withV4ControlTokens(readV3TokenizerJson())
    file = JSON.parse(new TextDecoder().decode(json)) as FileJson
    tokenizer = loadTokenizer(json)
  }, 60_000)

  it('ends where the models do', () => {
    expect(tokenizer.vocabSize).toBe(129_280)
  })

  it("encodes the specification's first check", () => {
    const text = '<｜User｜>你好<｜Assistant｜><think>推理</think>答案<｜end▁of▁sentence｜>'
    const ids = [128_803, 30_594, 128_804, 128_821, 36_101, 128_822, 7624, 1]
    expect([...encodePrompt(tokenizer, [{ kind: 'trusted', text }])]).toEqual(ids)
    expect(tokenizer.decode(ids)).toBe(text)
  })

  it("encodes the specification's second check", () => {
    const text = 'Hello! 毕老师！1 + 1 = 2 ĠÑĤÐ²ÑĬÑĢ'
    const ids = [
      19923, 3, 223, 5464, 5008, 1175, 19, 940, 223, 19, 438, 223, 20, 6113, 257, 76589, 131, 100,
      76032, 1628, 76589, 131, 108, 76589, 131, 98,
    ]
    expect(tokenizer.encodeText(text)).toEqual(ids)
    expect(tokenizer.decode(ids)).toBe(text)
  })

  it('never makes a control token of text that spells one', () => {
    const controls = new Set(file.added_tokens.map(({ id }) => id))
    expect(controls.size).toBe(818 + 14 + 415)
    for (const { content } of file.added_tokens) {
      for (const text of [content, `a ${content}\n`, content + content]) {
        const ids = tokenizer.encodeText(text)
        expect(ids.filter((id) => controls.has(id))).toEqual([])
        expect(tokenizer.decode(ids)).toBe(text)
      }
    }
  })

  it('knows every control token by its literal, both ways', () => {
    for (const { id, content } of file.added_tokens) {
      expect(tokenizer.controlId(content)).toBe(id)
      expect(tokenizer.decode([id])).toBe(content)
    }
  })

  it('encodes as the definition does, and decodes what it encoded', () => {
    const seed = 20_260_424
    const random = seededRandom(seed)
    const reference = referenceEncoder(file)
    for (let round = 0; round < 300; round += 1) {
      const text = randomText(random, 1 + Math.floor(random() * 40))
      const ids = tokenizer.encodeText(text)
      expect(ids, `seed ${seed}, round ${round}: ${JSON.stringify(text)}`).toEqual(reference(text))
      expect(tokenizer.decode(ids)).toBe(text)
    }
  })

  it('encodes a long text as the definition does across its windows', () => {
    const reference = referenceEncoder(file)
    const text = randomText(seededRandom(7), 60_000)
    expect(text.length).toBeGreaterThan(2 * 32_768)
    expect(tokenizer.encodeText(text)).toEqual(reference(text))
  })

  it('encodes a text in windows of any size as it encodes the whole', () => {
    const random = seededRandom(8)
    for (let unitsMax = 60; unitsMax < 200; unitsMax += 7) {
      const text = randomText(random, 2000)
      const windows = [...encodeWindows(text, unitsMax)]
      expect(Math.max(...windows.map((window) => window.length))).toBeLessThanOrEqual(unitsMax)
      expect(windows.flatMap((window) => tokenizer.encodeText(window))).toEqual(
        tokenizer.encodeText(text),
      )
    }
  })

  it.each(['a', ' ', '\u0001'])(
    'survives a megabyte of %j, on which the encoder aborts',
    (unit) => {
      const text = unit.repeat(1_000_000)
      expect(tokenizer.decode(tokenizer.encodeText(text))).toBe(text)
    },
  )
})

describe('windows', () => {
  it('leave a short text whole', () => {
    expect([...encodeWindows('')]).toEqual([''])
    expect([...encodeWindows('abc', 3)]).toEqual(['abc'])
  })

  it('cut a text that has no seam, but never a character', () => {
    expect([...encodeWindows('aaaaa', 2)]).toEqual(['aa', 'aa', 'a'])
    expect([...encodeWindows('😀😀😀', 3)]).toEqual(['😀', '😀', '😀'])
  })

  it('cut at the last seam they hold', () => {
    expect([...encodeWindows('ab cd ef', 6)]).toEqual(['ab cd', ' ef'])
    expect([...encodeWindows('!!12345!!', 5)]).toEqual(['!!', '12345', '!!'])
    expect([...encodeWindows('a的的b', 3)]).toEqual(['a的的', 'b'])
  })

  it('keep marks with their letters and digits of one number together', () => {
    expect([...encodeWindows('e\u0301e\u0301-x', 4)]).toEqual(['e\u0301e\u0301', '-x'])
    expect([...encodeWindows('a1234', 3)]).toEqual(['a', '123', '4'])
  })
})

describe('the toy vocabulary', () => {
  const file = toyFile()
  const tokenizer = loadTokenizer(bytes(file))

  it('encodes as the definition does', () => {
    const reference = referenceEncoder(file)
    const random = seededRandom(1)
    for (let round = 0; round < 200; round += 1) {
      const text = randomText(random, 1 + Math.floor(random() * 60))
      expect(tokenizer.encodeText(text)).toEqual(reference(text))
    }
  })

  it('fills its ids to the last', () => {
    expect(tokenizer.vocabSize).toBe(512)
    for (let id = 0; id < 512; id += 1) expect(tokenizer.bytesOf(id).length).toBeGreaterThan(0)
  })
})

describe('control tokens', () => {
  const tokenizer = loadTokenizer(bytes(toyFile()))

  it('names the token a checkpoint lacks', () => {
    expect(tokenizer.hasControl('<think>')).toBe(true)
    expect(tokenizer.hasControl('<|image|>')).toBe(false)
    expect(codeOf(() => tokenizer.controlId('<|image|>'))).toBe('missing_control_token')
    expect(() => tokenizer.controlId('<|image|>')).toThrow("'<|image|>'")
  })

  it('cuts trusted text at the literals in it', () => {
    const dsml = tokenizer.controlId('｜DSML｜')
    const end = tokenizer.controlId('</think>')
    expect(tokenizer.cutAtControls('<｜DSML｜a></think>｜DSML｜')).toEqual([
      '<',
      dsml,
      'a>',
      end,
      dsml,
    ])
    expect(tokenizer.cutAtControls('plain')).toEqual(['plain'])
    expect(tokenizer.cutAtControls('')).toEqual([])
  })

  it('takes the longest literal where one begins another, special characters as they are', () => {
    const file = toyFile()
    file.added_tokens.push({ id: 600, content: '[a' }, { id: 601, content: '[a](b|c)*' })
    const special = loadTokenizer(bytes(file))
    expect(special.cutAtControls('[a[a](b|c)*')).toEqual([600, 601])
    expect(special.vocabSize).toBe(602)
  })

  it('are out of reach for text even where they stand in the vocabulary and can be merged', () => {
    const file = toyFile()
    const { vocab, merges } = file.model
    // As merges, `<`+`x` and `<x`+`>` would make the control token of any text that spells it.
    Object.assign(vocab, { '<x': 600, '<x>': 601 })
    merges.push('< x', '<x >')
    file.added_tokens.push({ id: 601, content: '<x>' })
    const tokenizer = loadTokenizer(bytes(file))
    expect(tokenizer.encodeText('<x>')).toEqual([600, vocab['>']])
    expect(tokenizer.decode([601])).toBe('<x>')
  })

  it('work without any', () => {
    const file = toyFile()
    const vocab = Object.fromEntries(
      Object.entries(file.model.vocab).filter(([entry]) => !entry.includes('｜')),
    )
    const plain = loadTokenizer(
      bytes({ ...file, added_tokens: [], model: { ...file.model, vocab } }),
    )
    expect(plain.cutAtControls('<think>')).toEqual(['<think>'])
    expect(plain.decode(plain.encodeText('<think>'))).toBe('<think>')
  })
})

describe('decoding', () => {
  const tokenizer = loadTokenizer(bytes(toyFile()))
  const byteIds = (text: string): number[] =>
    Array.from(
      new TextEncoder().encode(text),
      (byte) => toyFile().model.vocab[letterOfByte[byte] ?? ''] ?? -1,
    )

  it('holds back a character until its last byte, one id at a time', () => {
    const stream = tokenizer.decodeStream()
    expect(byteIds('é😀').map((id) => stream.push([id]))).toEqual(['', 'é', '', '', '', '😀'])
    expect(stream.flush()).toBe('')
  })

  it('replaces what never became a character, once, when flushed', () => {
    const stream = tokenizer.decodeStream()
    expect(stream.push(byteIds('a😀').slice(0, 3))).toBe('a')
    expect(stream.flush()).toBe('\ufffd')
  })

  it('replaces an unfinished character before a control token', () => {
    const id = tokenizer.controlId('</think>')
    expect(tokenizer.decode([...byteIds('é').slice(0, 1), id])).toBe('\ufffd</think>')
  })

  it('keeps a byte-order mark', () => {
    expect(tokenizer.decode(tokenizer.encodeText('\ufeffa\ufeff'))).toBe('\ufeffa\ufeff')
  })

  it('keeps streams apart', () => {
    const [first, second] = [tokenizer.decodeStream(), tokenizer.decodeStream()]
    expect(first.push(byteIds('é').slice(0, 1))).toBe('')
    expect(second.push(byteIds('b'))).toBe('b')
    expect(first.push(byteIds('é').slice(1))).toBe('é')
  })

  it('gives the bytes of one token', () => {
    expect(tokenizer.bytesOf(byteIds('é')[0] ?? -1)).toEqual(Uint8Array.of(0xc3))
    expect(tokenizer.bytesOf(1)).toEqual(new TextEncoder().encode('<｜end▁of▁sentence｜>'))
  })

  it.each([512, -1, 1.5, Number.NaN, 2 ** 32])('refuses the id %d, which no token has', (id) => {
    expect(codeOf(() => tokenizer.decode([id]))).toBe('unknown_token_id')
    expect(codeOf(() => tokenizer.bytesOf(id))).toBe('unknown_token_id')
  })

  it('refuses an id between two tokens', () => {
    const file = toyFile()
    file.added_tokens.push({ id: 600, content: '<far>' })
    expect(codeOf(() => loadTokenizer(bytes(file)).decode([599]))).toBe('unknown_token_id')
  })

  it('encodes a lone surrogate as U+FFFD', () => {
    expect(tokenizer.decode(tokenizer.encodeText('a\ud800b'))).toBe('a\ufffdb')
  })
})

describe('tokenizer files', () => {
  const loading = (change: (file: FileJson) => unknown): string => {
    const file = toyFile()
    const changed = change(file)
    return codeOf(() => loadTokenizer(bytes(changed ?? file)))
  }
  const withModel = (fields: object) => (file: FileJson) => ({
    ...file,
    model: { ...file.model, ...fields },
  })

  it('takes merges spelt as pairs too', () => {
    const file = toyFile()
    const pairs = file.model.merges.map((merge) => merge.split(' '))
    const paired = loadTokenizer(bytes(withModel({ merges: pairs })(file)))
    expect(paired.encodeText('the merges, spelt')).toEqual(
      loadTokenizer(bytes(file)).encodeText('the merges, spelt'),
    )
  })

  it('refuses what is no JSON in UTF-8', () => {
    const refused = (text: Uint8Array): string => codeOf(() => loadTokenizer(text))
    expect(refused(new TextEncoder().encode('{'))).toBe('invalid_tokenizer')
    expect(refused(Uint8Array.of(0x22, 0xff, 0x22))).toBe('invalid_tokenizer')
    expect(refused(new Uint8Array(64 * 1024 * 1024 + 1))).toBe('invalid_tokenizer')
  })

  it.each<[string, (file: FileJson) => unknown]>([
    ['an array', () => []],
    ['no model', (file) => ({ ...file, model: undefined })],
    ['another kind of model', withModel({ type: 'Unigram' })],
    ['byte fallback', withModel({ byte_fallback: true })],
    ['merges left aside', withModel({ ignore_merges: true })],
    ['a normalizer', (file) => ({ ...file, normalizer: { type: 'NFC' } })],
    ['no splits', (file) => ({ ...file, pre_tokenizer: null })],
    [
      'a prefix space',
      (file) => ({
        ...file,
        pre_tokenizer: {
          type: 'Sequence',
          pretokenizers: [{ type: 'ByteLevel', add_prefix_space: true, use_regex: false }],
        },
      }),
    ],
    [
      'splits after the bytes',
      (file) => ({
        ...file,
        pre_tokenizer: {
          type: 'Sequence',
          pretokenizers: file.pre_tokenizer.pretokenizers.toReversed(),
        },
      }),
    ],
    [
      'an added token that strips',
      (file) => ({
        ...file,
        added_tokens: [{ id: 0, content: 'x', lstrip: true }],
      }),
    ],
    [
      'an added id out of range',
      (file) => ({
        ...file,
        added_tokens: [{ id: 2 ** 20, content: 'x' }],
      }),
    ],
  ])('refuses %s as another kind', (_what, change) => {
    expect(loading(change)).toBe('unsupported_tokenizer')
  })

  it.each<[string, (file: FileJson) => unknown]>([
    ['an id twice', ({ model }) => void (model.vocab['zz'] = 5)],
    ['an id that is no number', withModel({ vocab: { a: 'b' } })],
    ['an id out of range', ({ model }) => void (model.vocab['zz'] = 2 ** 20)],
    ['an added id twice', (file) => void file.added_tokens.push({ id: 0, content: 'x' })],
    [
      'an added token twice',
      (file) => void file.added_tokens.push({ id: 600, content: '<think>' }),
    ],
    ['two ids for one added token', ({ model }) => void (model.vocab['<think>'] = 600)],
    [
      'an added token under an ordinary id',
      (file) => void file.added_tokens.push({ id: 5, content: 'x' }),
    ],
    ['a byte without a token', ({ model }) => void delete model.vocab['A']],
    ['an entry outside the byte alphabet', ({ model }) => void (model.vocab['中'] = 600)],
    ['an endless entry', ({ model }) => void (model.vocab['a'.repeat(1025)] = 600)],
    ['a merge of nothing', ({ model }) => void model.merges.push('zz qq')],
    ['a merge of three', ({ model }) => void model.merges.push('a b c')],
    ['a merge that is no pair', withModel({ merges: [1] })],
    [
      'a broken pattern',
      (file) => {
        for (const { pattern } of file.pre_tokenizer.pretokenizers) if (pattern) pattern.Regex = '('
      },
    ],
  ])('refuses %s as invalid', (_what, change) => {
    expect(loading(change)).toBe('invalid_tokenizer')
  })
})
