/**
 * JSON as the models saw it in training: the text that Python's `json.dumps(value,
 * ensure_ascii=False)` gives. `JSON.parse` and `JSON.stringify` cannot produce it: they move
 * integer-like keys to the front and print 1.0 as 1. So a document is kept as nodes that remember
 * key order and the spelling of numbers.
 */

/** A JSON value in source form. `members` keeps source order; `raw` is the number as written. */
export type JsonNode =
  | { readonly kind: 'null' }
  | { readonly kind: 'boolean'; readonly value: boolean }
  | { readonly kind: 'number'; readonly raw: string }
  | { readonly kind: 'string'; readonly value: string }
  | { readonly kind: 'array'; readonly items: readonly JsonNode[] }
  | { readonly kind: 'object'; readonly members: ReadonlyMap<string, JsonNode> }

export type JsonSourceErrorCode = 'invalid_json' | 'too_deep' | 'unsupported_value'

/** A text that is not JSON, or a value JSON cannot carry. */
export class JsonSourceError extends Error {
  override readonly name = 'JsonSourceError'
  readonly code: JsonSourceErrorCode

  constructor(code: JsonSourceErrorCode, message: string) {
    super(message)
    this.code = code
  }
}

/** Deepest nesting of arrays and objects that is accepted; the parser recurses once a level. */
const depthMax = 128

/**
 * Parses JSON text (RFC 8259), keeping key order and number spelling. A key that occurs twice keeps
 * its first place and its last value, as in a Python dict. Throws `JsonSourceError`.
 */
export function parseJsonSource(text: string): JsonNode {
  const parser = new SourceParser(text)
  return parser.document()
}

const numberPattern = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y

function isWhitespace(unit: number): boolean {
  return unit === 0x20 || unit === 0x0a || unit === 0x0d || unit === 0x09
}

class SourceParser {
  readonly #text: string
  #at = 0

  constructor(text: string) {
    this.#text = text
  }

  document(): JsonNode {
    const node = this.#value(0)
    this.#skipWhitespace()
    if (this.#at < this.#text.length) throw this.#unexpected()
    return node
  }

  #value(depth: number): JsonNode {
    if (depth > depthMax) {
      throw new JsonSourceError('too_deep', `JSON nests deeper than ${depthMax} levels`)
    }
    this.#skipWhitespace()
    switch (this.#text.charAt(this.#at)) {
      case '{':
        return this.#object(depth)
      case '[':
        return this.#array(depth)
      case '"':
        return { kind: 'string', value: this.#string() }
      case 'n':
        return this.#literal('null', { kind: 'null' })
      case 't':
        return this.#literal('true', { kind: 'boolean', value: true })
      case 'f':
        return this.#literal('false', { kind: 'boolean', value: false })
      default:
        return this.#number()
    }
  }

  #object(depth: number): JsonNode {
    const members = new Map<string, JsonNode>()
    this.#at += 1
    if (this.#takes('}')) return { kind: 'object', members }
    do {
      this.#skipWhitespace()
      const key = this.#string()
      if (!this.#takes(':')) throw this.#unexpected()
      members.set(key, this.#value(depth + 1))
    } while (this.#takes(','))
    if (!this.#takes('}')) throw this.#unexpected()
    return { kind: 'object', members }
  }

  #array(depth: number): JsonNode {
    const items: JsonNode[] = []
    this.#at += 1
    if (this.#takes(']')) return { kind: 'array', items }
    do items.push(this.#value(depth + 1))
    while (this.#takes(','))
    if (!this.#takes(']')) throw this.#unexpected()
    return { kind: 'array', items }
  }

  #string(): string {
    const start = this.#at
    if (this.#text[start] !== '"') throw this.#unexpected()
    let escaped = false
    for (let at = start + 1; at < this.#text.length; at += 1) {
      const unit = this.#text.charCodeAt(at)
      if (unit === 0x22) {
        this.#at = at + 1
        return escaped ? this.#unescape(start) : this.#text.slice(start + 1, at)
      }
      if (unit === 0x5c) {
        escaped = true
        at += 1
      } else if (unit < 0x20) {
        this.#at = at
        throw this.#unexpected()
      }
    }
    this.#at = this.#text.length
    throw this.#unexpected()
  }

  #unescape(start: number): string {
    try {
      return String(JSON.parse(this.#text.slice(start, this.#at)))
    } catch (cause) {
      const message = `invalid escape in the JSON string at offset ${start}`
      throw new JsonSourceError('invalid_json', `${message}: ${String(cause)}`)
    }
  }

  #literal(word: string, node: JsonNode): JsonNode {
    if (!this.#text.startsWith(word, this.#at)) throw this.#unexpected()
    this.#at += word.length
    return node
  }

  #number(): JsonNode {
    numberPattern.lastIndex = this.#at
    const raw = numberPattern.exec(this.#text)?.[0]
    if (raw === undefined) throw this.#unexpected()
    this.#at += raw.length
    return { kind: 'number', raw }
  }

  /** Skips whitespace, then consumes `mark` if it stands there. */
  #takes(mark: string): boolean {
    this.#skipWhitespace()
    if (this.#text[this.#at] !== mark) return false
    this.#at += 1
    return true
  }

  #skipWhitespace(): void {
    while (isWhitespace(this.#text.charCodeAt(this.#at))) this.#at += 1
  }

  #unexpected(): JsonSourceError {
    const found = this.#text[this.#at]
    const what = found === undefined ? 'end of text' : JSON.stringify(found)
    return new JsonSourceError(
      'invalid_json',
      `unexpected ${what} at offset ${this.#at} of the JSON`,
    )
  }
}

/**
 * Nodes of a value that was parsed elsewhere; number spelling and the place of integer-like keys
 * are already lost there. Members that are `undefined` are left out.
 */
export function fromValue(value: unknown, depth = 0): JsonNode {
  if (depth > depthMax) {
    throw new JsonSourceError('too_deep', `value nests deeper than ${depthMax} levels`)
  }
  if (value === null) return { kind: 'null' }
  if (typeof value === 'boolean') return { kind: 'boolean', value }
  if (typeof value === 'string') return { kind: 'string', value }
  if (typeof value === 'number' && Number.isFinite(value)) {
    return { kind: 'number', raw: JSON.stringify(value) }
  }
  if (Array.isArray(value)) {
    return { kind: 'array', items: value.map((item: unknown) => fromValue(item, depth + 1)) }
  }
  if (typeof value === 'object') {
    const members = new Map<string, JsonNode>()
    for (const [key, member] of Object.entries(value)) {
      if (member !== undefined) members.set(key, fromValue(member, depth + 1))
    }
    return { kind: 'object', members }
  }
  throw new JsonSourceError('unsupported_value', `JSON has no form for this ${typeof value}`)
}

/** The member at `path` (object keys, outermost first), or undefined where a step is missing. */
export function jsonAt(node: JsonNode, ...path: readonly string[]): JsonNode | undefined {
  let current: JsonNode | undefined = node
  for (const key of path) {
    if (current?.kind !== 'object') return undefined
    current = current.members.get(key)
  }
  return current
}

/** The text Python's `json.dumps(value, ensure_ascii=False)` gives, numbers as they were written. */
export function pythonJson(node: JsonNode): string {
  switch (node.kind) {
    case 'null':
      return 'null'
    case 'boolean':
      return node.value ? 'true' : 'false'
    case 'number':
      return node.raw
    case 'string':
      return `"${escapeJsonText(node.value)}"`
    case 'array':
      return `[${node.items.map(pythonJson).join(', ')}]`
    case 'object': {
      const members = Array.from(
        node.members,
        ([key, member]) => `"${escapeJsonText(key)}": ${pythonJson(member)}`,
      )
      return `{${members.join(', ')}}`
    }
  }
}

const shortEscapes: Readonly<Record<string, string>> = {
  '"': '\\"',
  '\\': '\\\\',
  '\b': '\\b',
  '\f': '\\f',
  '\n': '\\n',
  '\r': '\\r',
  '\t': '\\t',
}

/** Everything but the quote (0x22), the backslash (0x5c) and what lies below the space. */
const mustEscape = /[^ !#-[\]-\u{10ffff}]/gu

/**
 * The inside of a JSON string, without the quotes. Works on each character alone, so escaping a
 * text piece by piece gives the same as escaping it whole.
 */
export function escapeJsonText(text: string): string {
  return text.replace(
    mustEscape,
    (unit) => shortEscapes[unit] ?? `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}
