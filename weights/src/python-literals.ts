import { CheckpointError } from './checkpoint-error.ts'

/** What a constant may be: text, or a dictionary from text to text. */
export type PythonValue = string | ReadonlyMap<string, string>

const sourceLengthMax = 2 ** 20
const nestingMax = 50

type Token =
  | {
      readonly kind: 'string'
      readonly text: string
      readonly fault: string | null
      readonly at: number
    }
  | { readonly kind: 'name' | 'operator' | 'other'; readonly text: string; readonly at: number }
  | { readonly kind: 'newline'; readonly text: string; readonly at: number }

/**
 * The values of module-level constants of a Python file, for the wanted names that occur. Reads
 * `NAME = …` and `NAME: type = …` where the value is made of string literals alone: implicit and
 * explicit concatenation, parentheses, one level of dictionary. Nothing is run. A wanted name with
 * any other value, or with two, throws `CheckpointError` naming it.
 */
export function readPythonConstants(
  source: string,
  wanted: ReadonlySet<string>,
): ReadonlyMap<string, PythonValue> {
  if (source.length > sourceLengthMax) {
    throw invalid('source', `is longer than ${sourceLengthMax} characters`)
  }
  const found = new Map<string, PythonValue>()
  for (const statement of statements(tokenize(source.replaceAll(/\r\n?/g, '\n')))) {
    const name = statement[0]
    if (name?.kind !== 'name' || name.at !== 0 || !wanted.has(name.text)) continue
    const assigned = afterAssignment(statement)
    if (assigned === null) continue
    if (found.has(name.text)) throw invalid(name.text, 'is assigned twice')
    found.set(name.text, new ValueReader(name.text, assigned).read())
  }
  return found
}

/** Tokens of one logical line each: brackets join lines, blank lines and comments vanish. */
function* statements(tokens: Iterable<Token>): Generator<readonly Token[]> {
  let statement: Token[] = []
  let depth = 0
  for (const token of tokens) {
    if (token.kind === 'newline') {
      if (depth > 0) continue
      if (statement.length > 0) yield statement
      statement = []
      continue
    }
    if (token.kind === 'operator' && '([{'.includes(token.text)) depth++
    if (token.kind === 'operator' && ')]}'.includes(token.text)) depth--
    statement.push(token)
  }
  if (statement.length > 0) yield statement
}

/** What follows `NAME =` or `NAME: annotation =`; null for a line that assigns nothing plainly. */
function afterAssignment(statement: readonly Token[]): readonly Token[] | null {
  const second = statement[1]
  if (second?.text !== '=' && second?.text !== ':') return null
  const equals = statement.findIndex((token) => token.kind === 'operator' && token.text === '=')
  return equals === -1 ? null : statement.slice(equals + 1)
}

/** Recursive descent over the one expression a constant's value may be. */
class ValueReader {
  readonly #name: string
  readonly #tokens: readonly Token[]
  #next = 0

  constructor(name: string, tokens: readonly Token[]) {
    this.#name = name
    this.#tokens = tokens
  }

  read(): PythonValue {
    const value = this.#peek() === '{' ? this.#dictionary() : this.#sum(0)
    if (this.#next !== this.#tokens.length) throw this.#fault()
    return value
  }

  /** The operator that comes next, or null. */
  #peek(): string | null {
    const token = this.#tokens[this.#next]
    return token?.kind === 'operator' ? token.text : null
  }

  #accept(operator: string): boolean {
    if (this.#peek() !== operator) return false
    this.#next++
    return true
  }

  #expect(operator: string): void {
    if (!this.#accept(operator)) throw this.#fault()
  }

  #dictionary(): ReadonlyMap<string, string> {
    const entries = new Map<string, string>()
    this.#expect('{')
    while (!this.#accept('}')) {
      const key = this.#sum(0)
      this.#expect(':')
      if (entries.has(key)) throw invalid(this.#name, `has the key ${JSON.stringify(key)} twice`)
      entries.set(key, this.#sum(0))
      if (this.#peek() !== '}') this.#expect(',')
    }
    return entries
  }

  /** Literals joined by `+`. */
  #sum(nesting: number): string {
    let text = this.#operand(nesting)
    while (this.#accept('+')) text += this.#operand(nesting)
    return text
  }

  /** Adjacent literals, which Python joins, or a sum in parentheses. */
  #operand(nesting: number): string {
    if (nesting > nestingMax) throw this.#fault()
    if (this.#accept('(')) {
      const text = this.#sum(nesting + 1)
      this.#expect(')')
      return text
    }
    let text: string | null = null
    for (
      let token = this.#tokens[this.#next];
      token?.kind === 'string';
      token = this.#tokens[++this.#next]
    ) {
      if (token.fault !== null) throw invalid(this.#name, token.fault)
      text = (text ?? '') + token.text
    }
    if (text === null) throw this.#fault()
    return text
  }

  #fault(): CheckpointError {
    return invalid(this.#name, 'is not made of plain string literals alone')
  }
}

const namePattern = /[\p{L}_][\p{L}\p{N}_]*/uy
const stringStart = /([A-Za-z]{0,2})("""|'''|"|')/y

/** Python's tokens, as far as they matter here. `at` is the column. */
function* tokenize(source: string): Generator<Token> {
  let index = source.startsWith('\uFEFF') ? 1 : 0
  let lineStart = index
  while (index < source.length) {
    const at = index - lineStart
    const character = source[index] ?? ''
    const string = matchAt(stringStart, source, index)
    const name = string === null ? matchAt(namePattern, source, index) : null
    if (string !== null) {
      const [start, prefix = '', quote = ''] = string
      const body = readBody(source, index + start.length, quote)
      yield { kind: 'string', at, ...decode(body.text, prefix.toLowerCase()) }
      const lastBreak = source.lastIndexOf('\n', body.end - 1)
      if (lastBreak >= index) lineStart = lastBreak + 1
      index = body.end
    } else if (name !== null) {
      yield { kind: 'name', text: name[0], at }
      index += name[0].length
    } else if (character === '\n') {
      yield { kind: 'newline', text: character, at }
      lineStart = ++index
    } else if (character === '#') {
      const end = source.indexOf('\n', index)
      index = end === -1 ? source.length : end
    } else if (character === '\\' && source[index + 1] === '\n') {
      index += 2
    } else if (/\s/.test(character)) {
      index++
    } else {
      const operator = /[()[\]{}:=,+]/.test(character) && !isCompound(source, index)
      yield { kind: operator ? 'operator' : 'other', text: character, at }
      index++
    }
  }
}

/** Part of `==`, `+=`, `:=` or another two-character operator with `=`. */
function isCompound(source: string, index: number): boolean {
  const pair = source.slice(index, index + 2)
  const before = source.slice(index - 1, index + 1)
  return /^[=+:]=$/.test(pair) || /^[=!<>+\-*/%&|^~@:]=$/.test(before)
}

function matchAt(pattern: RegExp, source: string, index: number): RegExpExecArray | null {
  pattern.lastIndex = index
  return pattern.exec(source)
}

/** The raw text up to the closing quote; a backslash shields the character after it. */
function readBody(source: string, start: number, quote: string): { text: string; end: number } {
  for (let index = start; index < source.length; index++) {
    const character = source[index]
    if (character === '\\') {
      index++
    } else if (character === '\n' && quote.length === 1) {
      break
    } else if (source.startsWith(quote, index)) {
      return { text: source.slice(start, index), end: index + quote.length }
    }
  }
  const line = source.slice(0, start).split('\n').length
  throw invalid('source', `has a string that does not end, from line ${line} on`)
}

const simpleEscapes: Readonly<Record<string, string>> = {
  '\n': '',
  '\\': '\\',
  "'": "'",
  '"': '"',
  a: '\u0007',
  b: '\b',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
  v: '\v',
}

const escapePattern =
  /\\(?:([0-7]{1,3})|x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|([\s\S]))/g

/** The literal's value. What is legal but not wanted here (bytes, f-strings) is a fault if used. */
function decode(raw: string, prefix: string): { text: string; fault: string | null } {
  if (prefix === 'r') return { text: raw, fault: null }
  if (prefix !== '' && prefix !== 'u') {
    return { text: '', fault: `has a string with the prefix ${prefix}, whose value is not plain` }
  }
  let fault: string | null = null
  const text = raw.replaceAll(
    escapePattern,
    (whole, octal?: string, byte?: string, short?: string, long?: string, single?: string) => {
      if (octal !== undefined) return String.fromCodePoint(Number.parseInt(octal, 8))
      const hex = byte ?? short ?? long
      if (hex !== undefined) {
        const codePoint = Number.parseInt(hex, 16)
        if (codePoint <= 0x10ffff) return String.fromCodePoint(codePoint)
        fault = `has the impossible character ${whole}`
        return ''
      }
      if (single !== undefined && 'xuUN'.includes(single)) {
        fault = `has the escape \\${single}, which is broken or not supported`
      }
      // An escape Python does not know stands for itself, backslash included.
      return Object.hasOwn(simpleEscapes, single ?? '')
        ? (simpleEscapes[single ?? ''] ?? '')
        : whole
    },
  )
  if (!text.isWellFormed()) fault ??= 'has half of a surrogate pair'
  return { text, fault }
}

function invalid(subject: string, why: string): CheckpointError {
  return new CheckpointError('prompt_constants_invalid', subject, `the encoder's ${subject} ${why}`)
}
