import { JsonSourceError, escapeJsonText, parseJsonSource } from './python-json.ts'
import type { ToolShape } from './tool-shapes.ts'

/** Names under which models at times pass all their arguments as one. */
const wrapperNames: readonly string[] = ['arguments', 'input']

interface HeldParameter {
  readonly name: string
  readonly isString: boolean
  readonly text: string
  readonly ended: boolean
}

/**
 * Turns the parameters of one call into the JSON text of its arguments, `{"a": 1, "b": "x"}`, piece
 * by piece: each method returns the text that can be sent now.
 *
 * The one thing held back is a first parameter that may wrap all the others: named `arguments` or
 * `input` though the tool lists no such property. If it stays alone and holds an object, that object
 * is the arguments.
 */
export class ArgumentsWriter {
  readonly #shape: ToolShape | undefined
  readonly #names = new Set<string>()
  #isString = false
  #held: HeldParameter | undefined

  constructor(shape: ToolShape | undefined) {
    this.#shape = shape
  }

  isEmpty(): boolean {
    return this.#names.size === 0
  }

  has(name: string): boolean {
    return this.#names.has(name)
  }

  start(name: string, isString: boolean): string {
    const first = this.isEmpty()
    const before = this.#release()
    this.#names.add(name)
    this.#isString = isString
    if (first && this.#mayWrap(name)) {
      this.#held = { name, isString, text: '', ended: false }
      return ''
    }
    return `${before}${first ? '{' : ', '}${opening(name, isString)}`
  }

  value(text: string): string {
    if (this.#held === undefined) return this.#isString ? escapeJsonText(text) : text
    this.#held = { ...this.#held, text: this.#held.text + text }
    return ''
  }

  end(): string {
    if (this.#held === undefined) return this.#isString ? '"' : ''
    this.#held = { ...this.#held, ended: true }
    return ''
  }

  /** The call is complete. */
  close(): string {
    if (this.#held !== undefined && isObject(this.#held.text)) return this.#held.text.trim()
    return this.#release() + (this.isEmpty() ? '{}' : '}')
  }

  /** The call broke off: what was held back, and no closing brace. */
  abandon(): string {
    return this.#release()
  }

  #mayWrap(name: string): boolean {
    const properties = this.#shape?.properties
    return wrapperNames.includes(name) && properties !== undefined && !properties.has(name)
  }

  #release(): string {
    const held = this.#held
    if (held === undefined) return ''
    this.#held = undefined
    const text = held.isString ? escapeJsonText(held.text) : held.text
    const end = held.isString && held.ended ? '"' : ''
    return `{${opening(held.name, held.isString)}${text}${end}`
  }
}

function opening(name: string, isString: boolean): string {
  return `"${escapeJsonText(name)}": ${isString ? '"' : ''}`
}

/** Whether the text is one JSON object. */
function isObject(text: string): boolean {
  return jsonKind(text) === 'object'
}

/** Kind of the JSON value that the text holds, or undefined if it holds none. */
export function jsonKind(text: string): string | undefined {
  try {
    return parseJsonSource(text).kind
  } catch (error) {
    // Only the answer matters here; models do write broken JSON.
    if (error instanceof JsonSourceError) return undefined
    throw error
  }
}
