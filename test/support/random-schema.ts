import type { Random } from '../../gpu-backend/src/engine/random.ts'

export type Schema = Readonly<Record<string, unknown>>

/**
 * A schema of the kinds that answers can be held to, some of them recursive: every keyword, nested
 * about four deep, names and values with quotes, escapes and characters of several bytes.
 */
export function randomSchema(random: Random): Schema {
  const writer = new SchemaWriter(random)
  const recursive = random() < 0.25
  const root = recursive ? writer.tree() : writer.schema(4)
  return { $schema: 'https://json-schema.org/draft/2020-12/schema', ...root }
}

const names = ['a', 'b', 'name', 'list', 'größe', '日本', 'q"uote', 'back\\slash', '7', 'x y', '']
const texts = ['', 'red', 'redder', 'grün', '"', '\\n', 'line\nbreak', '𝄞', '</end>', '0']

class SchemaWriter {
  readonly #random: Random

  constructor(random: Random) {
    this.#random = random
  }

  schema(depth: number): Schema {
    const kinds = depth > 0 ? 12 : 8
    switch (this.#below(kinds)) {
      case 0:
        return { type: 'string', description: 'free' }
      case 1:
        return { type: 'string', ...this.#range('minLength', 'maxLength', 8) }
      case 2:
        return { type: 'integer', ...this.#bounds() }
      case 3:
        return { type: 'number', ...this.#bounds() }
      case 4:
        return { type: this.#pick(['boolean', 'null', 'integer', 'number']) }
      case 5:
        return { enum: this.#some([...texts, 1, -2.5, true, null]) }
      case 6:
        return { const: this.#pick<unknown>([...texts, 3, false]) }
      case 7:
        return { type: ['string', 'null'] }
      case 8:
        return {
          type: 'array',
          items: this.schema(depth - 1),
          ...this.#range('minItems', 'maxItems', 3),
        }
      case 9:
        return { anyOf: [this.schema(depth - 1), this.schema(depth - 1)] }
      default:
        return this.#object(depth)
    }
  }

  /** A tree, or a list, that refers to itself. */
  tree(): Schema {
    const child = { anyOf: [{ $ref: '#/$defs/node' }, { type: 'null' }] }
    const children = { type: 'array', items: { $ref: '#/$defs/node' } }
    const links = this.#random() < 0.5 ? { left: child, right: child } : { children }
    const properties = { value: this.schema(1), ...links }
    const node = {
      type: 'object',
      properties,
      required: Object.keys(properties),
      additionalProperties: false,
    }
    return { $ref: '#/$defs/node', $defs: { node } }
  }

  #object(depth: number): Schema {
    const chosen = this.#some(names)
    const properties = Object.fromEntries(chosen.map((name) => [name, this.schema(depth - 1)]))
    const required = chosen.filter(() => this.#random() < 0.7)
    const closed = this.#pick<unknown>([false, false, true, { type: 'integer' }])
    return { type: 'object', properties, required, additionalProperties: closed }
  }

  #range(least: string, most: string, below: number): Schema {
    const low = this.#below(below)
    const range = { [least]: low, [most]: low + this.#below(below) }
    return Object.fromEntries(Object.entries(range).filter(() => this.#random() < 0.6))
  }

  #bounds(): Schema {
    const low = Math.floor((this.#random() - 0.5) * 10 ** this.#below(8))
    const all = {
      [this.#pick(['minimum', 'exclusiveMinimum'])]: low,
      [this.#pick(['maximum', 'exclusiveMaximum'])]: low + 2 + this.#below(1000),
    }
    return Object.fromEntries(Object.entries(all).filter(() => this.#random() < 0.6))
  }

  #below(limit: number): number {
    return Math.floor(this.#random() * limit)
  }

  #pick<T>(from: readonly T[]): T {
    const picked = from[this.#below(from.length)]
    if (picked === undefined) throw new Error('nothing to pick from')
    return picked
  }

  /** One to four of them, each once. */
  #some<T>(from: readonly T[]): T[] {
    const left = [...from]
    const count = 1 + this.#below(Math.min(4, left.length))
    return Array.from({ length: count }, () => left.splice(this.#below(left.length), 1)).flat()
  }
}
