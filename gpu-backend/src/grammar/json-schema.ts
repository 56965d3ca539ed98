import { pythonJson } from '../text/python-json.ts'
import { addIntegersBetween } from './integer-range.ts'
import { GrammarTooLarge } from './grammar.ts'
import type { JsonText } from './json-text.ts'
import { SchemaError } from './schema-error.ts'
import {
  SchemaReader,
  type Property,
  type Range,
  type SchemaAt,
  type Shape,
  type ShapeAt,
} from './schema-shapes.ts'
import { otherNameStart, otherThan } from './text-steps.ts'

type ObjectShape = Extract<Shape, { readonly kind: 'object' }>

/** To tell other names from these takes time for each of their bytes. */
const otherNamesBytesMax = 1024

/**
 * Makes grammar of a schema: JSON text of values that fit it. Objects have their properties in the
 * order in which the schema lists them, optional ones perhaps left out.
 *
 * A part is made once however often it is referred to, so that the time and the states taken follow
 * the schema's length, whatever its references do.
 */
export class SchemaCompiler {
  readonly reader: SchemaReader
  readonly #json: JsonText
  readonly #pending: { readonly path: string; readonly build: () => void }[] = []
  readonly #ids = new Map<unknown, number>()

  constructor(json: JsonText, root: SchemaAt, options: { readonly strict: boolean }) {
    this.#json = json
    this.reader = new SchemaReader(root, options)
  }

  /** The entry of a part that makes values of the schema. Call `finish` before it is used. */
  value(schema: SchemaAt | 'any'): number {
    if (schema === 'any') return this.#json.value()
    return this.#later(`value ${this.#id(schema.node)}`, schema.path, (entry) => {
      const { builder } = this.#json
      const end = builder.state()
      for (const shape of this.reader.shapes(schema)) builder.call(entry, this.shape(shape), end)
      return end
    })
  }

  shape({ shape, schema, index }: ShapeAt): number {
    if (shape.kind === 'any') return this.#json.value()
    const name = `shape ${this.#id(schema.node)} ${index}`
    return this.#later(name, schema.path, (entry) => this.#addShape(entry, shape, schema.path))
  }

  /** Makes everything that was asked for. Throws `SchemaError`. */
  finish(): void {
    for (let next = this.#pending.pop(); next !== undefined; next = this.#pending.pop()) {
      try {
        next.build()
      } catch (cause) {
        if (!(cause instanceof GrammarTooLarge)) throw cause
        throw new SchemaError(next.path, `makes the schema too large: it ${cause.message}`)
      }
    }
  }

  /** A part whose inside is made by `finish`: schemas may nest deeper than calls may. */
  #later(name: string, path: string, build: (entry: number) => number): number {
    return this.#json.declare(name, (entry) => {
      this.#pending.push({ path, build: () => this.#json.builder.end(build(entry)) })
    })
  }

  #id(of: unknown): number {
    const known = this.#ids.get(of) ?? this.#ids.size
    this.#ids.set(of, known)
    return known
  }

  #addShape(entry: number, shape: Shape, path: string): number {
    const json = this.#json
    switch (shape.kind) {
      case 'any':
        return json.through(entry, json.value())
      case 'null':
        return json.builder.literal(entry, 'null')
      case 'boolean':
        return this.#words(entry, ['true', 'false'])
      case 'words':
        return this.#words(entry, this.#checked(shape.texts, path))
      case 'strings':
        return this.#words(entry, this.#checked(shape.values.map(quoted), path))
      case 'string':
        return this.#string(entry, shape.lengths)
      case 'integer':
        return this.#integer(entry, shape.bounds)
      case 'number':
        return this.#number(entry, shape.bounds)
      case 'array': {
        const item = this.value(shape.items)
        const open = json.builder.literal(entry, '[')
        return json.list(open, ']', (from) => json.through(from, item), shape.counts)
      }
      case 'object':
        return this.#object(entry, shape, path)
    }
  }

  #words(entry: number, texts: readonly string[]): number {
    const end = this.#json.builder.state()
    this.#json.builder.anyLiteral(entry, texts, end)
    return end
  }

  #checked(texts: readonly string[], path: string): readonly string[] {
    const held = texts.find((text) => this.#json.forbids(text))
    if (held !== undefined) throw new SchemaError(path, 'holds markup of tool calls')
    return texts
  }

  #string(entry: number, { least, most }: Range): number {
    const json = this.#json
    if (least === 0 && most === Infinity) return json.through(entry, json.string())
    let at = json.builder.literal(entry, '"')
    for (let count = 0; count < least; count++) at = json.through(at, json.character())
    if (most === Infinity) return json.stringBody(at)
    const end = json.builder.state()
    json.builder.skip(at, end)
    for (let count = least; count < most; count++) {
      at = json.through(at, json.character())
      json.builder.skip(at, end)
    }
    return json.builder.literal(end, '"')
  }

  #integer(entry: number, { least, most }: Range): number {
    const json = this.#json
    if (least === -Infinity && most === Infinity) return json.through(entry, json.integer())
    const name = `integer ${least} ${most}`
    const part = json.part(name, (from) => {
      const to = json.builder.state()
      addIntegersBetween(json.builder, { from, to }, { least, most })
      return to
    })
    return json.through(entry, part)
  }

  /** A fraction may follow a whole part from which it cannot leave the bounds. */
  #number(entry: number, { least, most }: Range): number {
    const json = this.#json
    if (least === -Infinity && most === Infinity) return json.through(entry, json.number())
    const part = json.part(`number ${least} ${most}`, (from) => {
      const { builder } = json
      const [whole, end] = [builder.state(), builder.state()]
      addIntegersBetween(builder, { from, to: end }, { least, most })
      if (most >= 1) {
        const wholes = { least: Math.max(0, least), most: most - 1 }
        addIntegersBetween(builder, { from, to: whole }, wholes)
      }
      if (least <= -1) {
        const magnitudes = { least: Math.max(0, -most), most: -least - 1 }
        const minus = builder.literal(from, '-')
        addIntegersBetween(builder, { from: minus, to: whole }, magnitudes)
      }
      json.fraction(whole, end)
      return end
    })
    return json.through(entry, part)
  }

  #object(entry: number, { properties, others }: ObjectShape, path: string): number {
    const json = this.#json
    const { builder } = json
    const end = builder.state()
    const opened = json.blanks(builder.literal(entry, '{'))
    const lastRequired = properties.findLastIndex((property) => property.required)
    // A place for each property: in front of it, the comma already written.
    const places = properties.map(() => builder.state())
    const rest = others === null ? null : builder.state()
    const place = (index: number): number | null => places[index] ?? rest
    const first = place(0)
    if (first !== null) builder.skip(opened, first)
    if (lastRequired < 0) builder.skip(builder.literal(opened, '}'), end)
    for (const [index, property] of properties.entries()) {
      const here = places[index] ?? entry
      const next = place(index + 1)
      const after = json.blanks(this.#member(here, property, path))
      if (next !== null) builder.skip(json.blanks(builder.literal(after, ',')), next)
      if (index >= lastRequired) builder.skip(builder.literal(after, '}'), end)
      if (!property.required && next !== null) builder.skip(here, next)
    }
    if (rest !== null && others !== null) this.#others(rest, end, { properties, others, path })
    return end
  }

  #member(from: number, { name, schema }: Property, path: string): number {
    const json = this.#json
    const [key] = this.#checked([quoted(name)], path)
    if (!name.isWellFormed()) throw new SchemaError(schema.path, 'has a name of invalid Unicode')
    const named = json.blanks(json.builder.literal(from, key ?? ''))
    return json.through(json.blanks(json.builder.literal(named, ':')), this.value(schema))
  }

  /** Members of other names, each followed by a comma and another or by the end. */
  #others(
    from: number,
    end: number,
    {
      properties,
      others,
      path,
    }: {
      readonly properties: readonly Property[]
      readonly others: SchemaAt | 'any'
      readonly path: string
    },
  ): void {
    const json = this.#json
    const { builder } = json
    const nameBytes = properties.reduce((sum, { name }) => sum + Buffer.byteLength(name), 0)
    if (nameBytes > otherNamesBytesMax) {
      const problem = `is supported beside names of up to ${otherNamesBytesMax} bytes in all`
      throw new SchemaError(`${path}.additionalProperties`, problem)
    }
    const value = this.value(others)
    const key = this.#otherName(builder.literal(from, '"'), properties)
    const after = json.blanks(
      json.through(json.blanks(builder.literal(json.blanks(key), ':')), value),
    )
    builder.skip(json.blanks(builder.literal(after, ',')), from)
    builder.skip(builder.literal(after, '}'), end)
  }

  /** A name, its closing quote included, that is none of the properties'; it may not use escapes. */
  #otherName(from: number, properties: readonly Property[]): number {
    const json = this.#json
    if (properties.length === 0) return json.stringBody(from)
    const end = json.builder.state()
    const step = otherThan(properties.map(({ name }) => name))
    json.builder.text(from, otherNameStart, json.guarded(step), end)
    return end
  }
}

function quoted(text: string): string {
  return pythonJson({ kind: 'string', value: text })
}
