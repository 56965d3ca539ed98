import { textEnd, type TextStep } from './grammar.ts'

/** A whole character has been read: where text automata begin and come back to. */
export const boundary = ''

/** Lead bytes of the sequences RFC 3629 allows: from, to, and the state that awaits the rest. */
const leads: readonly (readonly [number, number, string])[] = [
  [0x00, 0x7f, boundary],
  [0xc2, 0xdf, '1'],
  [0xe0, 0xe0, 'e0'],
  [0xe1, 0xec, '2'],
  [0xed, 0xed, 'ed'],
  [0xee, 0xef, '2'],
  [0xf0, 0xf0, 'f0'],
  [0xf1, 0xf3, '3'],
  [0xf4, 0xf4, 'f4'],
]

/** Inside a character: the bytes that go on, and where they lead. */
const continuations: Readonly<Record<string, readonly [number, number, string]>> = {
  '1': [0x80, 0xbf, boundary],
  '2': [0x80, 0xbf, '1'],
  '3': [0x80, 0xbf, '2'],
  e0: [0xa0, 0xbf, '1'],
  ed: [0x80, 0x9f, '1'],
  f0: [0x90, 0xbf, '2'],
  f4: [0x80, 0x8f, '2'],
}

/** UTF-8, without surrogates, overlong forms, or anything behind U+10FFFF. */
export function utf8Step(state: string, byte: number): string | null {
  const continuation = continuations[state]
  const edges = continuation === undefined ? leads : [continuation]
  return edges.find(([low, high]) => byte >= low && byte <= high)?.[2] ?? null
}

const isHex = (byte: number): boolean => /[0-9a-fA-F]/.test(String.fromCharCode(byte))
const among = (byte: number, characters: string): boolean =>
  characters.includes(String.fromCharCode(byte))

/**
 * Behind a backslash. A high surrogate has to be followed by a low one, so that every string can be
 * written down as UTF-8: `s…` states await the second half of the pair.
 */
const escapes: Readonly<Record<string, (byte: number) => string | null>> = {
  '\\': (byte) => (byte === 0x75 ? 'u' : among(byte, '"\\/bfnrt') ? boundary : null),
  u: (byte) => (among(byte, 'dD') ? 'ud' : isHex(byte) ? 'u3' : null),
  u3: (byte) => (isHex(byte) ? 'u2' : null),
  u2: (byte) => (isHex(byte) ? 'u1' : null),
  u1: (byte) => (isHex(byte) ? boundary : null),
  ud: (byte) => (among(byte, '01234567') ? 'u2' : among(byte, '89abAB') ? 's2' : null),
  s2: (byte) => (isHex(byte) ? 's1' : null),
  s1: (byte) => (isHex(byte) ? 's\\' : null),
  's\\': (byte) => (byte === 0x5c ? 'su' : null),
  su: (byte) => (byte === 0x75 ? 'sd' : null),
  sd: (byte) => (among(byte, 'dD') ? 'sc' : null),
  sc: (byte) => (among(byte, 'cdefCDEF') ? 'u2' : null),
}

/** What stands between a JSON string's quotes (RFC 8259); its end is the closing quote. */
export const jsonStringStep: TextStep = (state, byte) => {
  const escape = escapes[state]
  if (escape !== undefined) return escape(byte)
  if (state !== boundary) return utf8Step(state, byte)
  if (byte === 0x22) return textEnd
  if (byte === 0x5c) return '\\'
  return byte < 0x20 ? null : utf8Step(state, byte)
}

/** One character of a JSON string; it is over once the boundary is reached again. */
export const jsonCharacterStep: TextStep = (state, byte) => {
  const next = jsonStringStep(state, byte)
  return next === boundary ? textEnd : next === textEnd ? null : next
}

/** A parameter's name in tool calls, from state `first` on, its closing quote included. */
export const parameterNameStep: TextStep = (state, byte) => {
  const plain = state === 'first' ? boundary : state
  if (plain === boundary && byte === 0x22) return state === 'first' ? null : textEnd
  return byte < 0x20 ? null : utf8Step(plain, byte)
}

export const otherNameStart = '='

/**
 * A JSON object's key without escapes, its closing quote included, that is none of `names`. States
 * that begin with `=` spell, in hexadecimal, the beginning of a name that has been read so far.
 */
export function otherThan(names: readonly string[]): TextStep {
  const spelled = names.map((name) => Buffer.from(name).toString('hex'))
  const taken = new Set(spelled.map((name) => otherNameStart + name))
  const beginnings = new Set(
    spelled.flatMap((name) =>
      Array.from({ length: name.length / 2 + 1 }, (_, bytes) => `=${name.slice(0, 2 * bytes)}`),
    ),
  )
  return (state, byte) => {
    const plain = state.startsWith(otherNameStart) ? utf8StateOf(state) : state
    if (plain === boundary && byte === 0x22) return taken.has(state) ? null : textEnd
    if (plain === boundary && (byte === 0x5c || byte < 0x20)) return null
    const longer = `${state}${byte.toString(16).padStart(2, '0')}`
    return beginnings.has(longer) ? longer : utf8Step(plain, byte)
  }
}

function utf8StateOf(state: string): string {
  let at: string = boundary
  for (const byte of Buffer.from(state.slice(1), 'hex')) at = utf8Step(at, byte) ?? at
  return at
}

/** How many bytes of `literal` the text ends with, after one more byte (Knuth, Morris and Pratt). */
function literalMatcher(literal: string): (matched: number, byte: number) => number {
  const bytes = new TextEncoder().encode(literal)
  const shorter = [0]
  const step = (matched: number, byte: number): number => {
    let length = matched
    while (length > 0 && bytes[length] !== byte) length = shorter[length] ?? 0
    return bytes[length] === byte ? length + 1 : 0
  }
  for (let length = 1; length <= bytes.length; length++) {
    shorter[length] = length === 1 ? 0 : step(shorter[length - 1] ?? 0, bytes[length - 1] ?? 0)
  }
  return (matched, byte) => step(matched, byte)
}

/** The text that `step` reads, which `literal` ends: the first time it is complete. */
export function until(step: TextStep, literal: string): TextStep {
  return watching(step, literal, textEnd)
}

/** The text that `step` reads, in which `literal` never occurs. */
export function without(step: TextStep, literal: string): TextStep {
  return watching(step, literal, null)
}

function watching(step: TextStep, literal: string, found: typeof textEnd | null): TextStep {
  const match = literalMatcher(literal)
  const length = new TextEncoder().encode(literal).length
  return (state, byte) => {
    const [inner = boundary, matched = '0'] = state.split(' ')
    const next = step(inner, byte)
    if (typeof next !== 'string') return next
    const now = match(Number(matched), byte)
    return now === length ? found : `${next} ${now}`
  }
}
