import { pythonJson, type JsonNode } from '../text/python-json.ts'
import { SchemaError } from './schema-error.ts'

/** A schema, or a part of one, and where in the request it stands. */
export interface SchemaAt {
  readonly node: JsonNode
  readonly path: string
}

export interface Property {
  readonly name: string
  readonly schema: SchemaAt
  readonly required: boolean
}

/** One way in which a value may fit a schema. */
export type Shape =
  | { readonly kind: 'any' }
  | { readonly kind: 'boolean' | 'null' }
  /** Certain values, as JSON text. */
  | { readonly kind: 'words'; readonly texts: readonly string[] }
  /** Certain strings. */
  | { readonly kind: 'strings'; readonly values: readonly string[] }
  | { readonly kind: 'string'; readonly lengths: Range }
  | { readonly kind: 'integer' | 'number'; readonly bounds: Range }
  | {
      readonly kind: 'object'
      readonly properties: readonly Property[]
      /** What properties of other names hold; null: there are none. */
      readonly others: SchemaAt | 'any' | null
    }
  | { readonly kind: 'array'; readonly items: SchemaAt | 'any'; readonly counts: Range }

export interface Range {
  readonly least: number
  readonly most: number
}

export interface ShapeAt {
  readonly shape: Shape
  /** The schema it is one reading of, and its place among those of the same. */
  readonly schema: SchemaAt
  readonly index: number
}

/** What may be said of a schema without any effect on values. */
const annotations = new Set([
  '$anchor',
  '$comment',
  '$def',
  '$defs',
  '$id',
  '$schema',
  'contentEncoding',
  'contentMediaType',
  'default',
  'definitions',
  'deprecated',
  'description',
  'discriminator',
  'example',
  'examples',
  'name',
  'readOnly',
  'strict',
  'title',
  'writeOnly',
])

const typeNames = ['object', 'array', 'string', 'number', 'integer', 'boolean', 'null'] as const
type TypeName = (typeof typeNames)[number]

/** The keywords each type understands. */
const keywords: Readonly<Record<TypeName, readonly string[]>> = {
  object: ['properties', 'required', 'additionalProperties'],
  array: ['items', 'minItems', 'maxItems'],
  string: ['minLength', 'maxLength'],
  number: ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum'],
  integer: ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum'],
  boolean: [],
  null: [],
}
const combining = ['type', 'enum', 'const', 'anyOf', 'oneOf', 'allOf', '$ref']

/** DeepSeek's strict tools know fewer. */
const notStrict = new Set(['minLength', 'maxLength', 'minItems', 'maxItems'])

/** Alternatives of one place, references followed. */
const shapesMax = 1024
const countMax = 1000
const oneOfDepthMax = 16
/** Properties looked at for one that tells alternatives apart. */
const tagNamesMax = 32

/** Reads schemas of one document; every keyword it cannot hold answers to is refused by its path. */
export class SchemaReader {
  readonly #root: SchemaAt
  readonly #strict: boolean
  readonly #known = new Map<JsonNode, readonly ShapeAt[]>()
  /** How many `oneOf`, one inside the other, are being told apart. */
  #depth = 0

  constructor(root: SchemaAt, options: { readonly strict: boolean }) {
    this.#root = root
    this.#strict = options.strict
  }

  /** Every way a value may fit the schema. Throws `SchemaError`. */
  shapes(schema: SchemaAt): readonly ShapeAt[] {
    const known = this.#known.get(schema.node) ?? this.#findShapes(schema)
    this.#known.set(schema.node, known)
    return known
  }

  #findShapes(schema: SchemaAt): readonly ShapeAt[] {
    const found: ShapeAt[] = []
    const seen = new Set<JsonNode>()
    const pending = [schema]
    for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
      if (seen.has(next.node)) continue
      seen.add(next.node)
      const parts = this.#alternatives(next)
      const count = found.length + seen.size + (parts?.length ?? 0)
      if (count > shapesMax) {
        throw new SchemaError(schema.path, `has more than ${shapesMax} alternatives`)
      }
      if (parts !== null) pending.push(...parts.toReversed())
      else found.push(...this.#readings(next))
    }
    if (found.length === 0) throw new SchemaError(schema.path, 'describes no value')
    return found
  }

  /** The schemas this one only combines; null: it describes values itself. */
  #alternatives(schema: SchemaAt): SchemaAt[] | null {
    const combiner = ['$ref', 'anyOf', 'oneOf', 'allOf'].find((key) => has(schema, key))
    if (combiner === undefined) return null
    // Other keywords would have to hold as well, which only annotations do without fail.
    for (const key of keysOf(schema)) {
      if (key !== combiner && !annotations.has(key) && !this.#repeatsType(schema, key)) {
        throw new SchemaError(`${schema.path}.${key}`, `cannot stand beside '${combiner}'`)
      }
    }
    if (combiner === '$ref') return [this.#resolve(schema)]
    const parts = itemsOf(at(schema, combiner))
    if (combiner === 'allOf' && parts.length !== 1) {
      throw new SchemaError(`${schema.path}.allOf`, 'is supported with one schema in it')
    }
    if (combiner === 'oneOf') this.#checkOneOf(schema, parts)
    return parts
  }

  /** Generators write `type` beside alternatives that all have it. */
  #repeatsType(schema: SchemaAt, key: string): boolean {
    if (key !== 'type' || !has(schema, 'anyOf')) return false
    const own = typesOf(schema)
    return itemsOf(at(schema, 'anyOf')).every(
      (part) => has(part, 'type') && typesOf(part).every((type) => own.includes(type)),
    )
  }

  #checkOneOf(schema: SchemaAt, parts: readonly SchemaAt[]): void {
    const path = `${schema.path}.oneOf`
    if (this.#depth >= oneOfDepthMax) {
      throw new SchemaError(path, 'stands in itself, or in too many others of its kind')
    }
    this.#depth += 1
    const apart = this.#haveTag(parts) || this.#areDisjoint(parts)
    this.#depth -= 1
    if (apart) return
    const problem =
      'is supported where types or set values tell its schemas apart, at the top or in a required ' +
      'property; use anyOf'
    throw new SchemaError(path, problem)
  }

  /** Whether no value is of two of the parts, by type or as one of set values. */
  #areDisjoint(parts: readonly SchemaAt[]): boolean {
    const taken = new Map<string, Set<string> | 'all'>()
    return parts.every((part) => {
      const marks = this.shapes(part).flatMap(({ shape }) => marksOf(shape))
      const free = marks.every((mark) => !meets(taken, mark))
      for (const mark of marks) take(taken, mark)
      return free
    })
  }

  /** Whether a required property has other set values in every part. */
  #haveTag(parts: readonly SchemaAt[]): boolean {
    const objects = parts.map((part) => {
      const [only, ...more] = this.shapes(part)
      return more.length === 0 ? only?.shape : undefined
    })
    const [first] = objects
    const names = first?.kind === 'object' ? first.properties.slice(0, tagNamesMax) : []
    return names.some(({ name }) => {
      const values = objects.map((shape) => this.#wordsOf(shape, name))
      const all = values.flat()
      return values.every((own) => own.length > 0) && new Set(all).size === all.length
    })
  }

  #wordsOf(shape: Shape | undefined, name: string): readonly string[] {
    if (shape?.kind !== 'object') return []
    const property = shape.properties.find((own) => own.name === name && own.required)
    if (property === undefined) return []
    const [only, ...more] = this.shapes(property.schema)
    if (more.length > 0 || only === undefined) return []
    if (only.shape.kind === 'words') return only.shape.texts
    return only.shape.kind === 'strings'
      ? only.shape.values.map((value) => JSON.stringify(value))
      : []
  }

  #resolve(schema: SchemaAt): SchemaAt {
    const reference = at(schema, '$ref')
    const text = reference.node.kind === 'string' ? reference.node.value : ''
    if (!text.startsWith('#')) {
      throw new SchemaError(reference.path, "must be a reference within the schema, '#…'")
    }
    let found = this.#root
    for (const step of text.slice(1).split('/').slice(1)) {
      const key = decodeStep(step)
      const next =
        found.node.kind === 'object' ? found.node.members.get(key) : itemAt(found.node, key)
      if (next === undefined) throw new SchemaError(reference.path, `'${text}' leads nowhere`)
      found = { node: next, path: `${found.path}.${key}` }
    }
    return found
  }

  #readings(schema: SchemaAt): ShapeAt[] {
    if (schema.node.kind === 'boolean') {
      return schema.node.value ? [{ shape: { kind: 'any' }, schema, index: 0 }] : []
    }
    if (schema.node.kind !== 'object') {
      throw new SchemaError(schema.path, 'must be a schema: an object, true or false')
    }
    const types = typesOf(schema)
    this.#checkKeywords(schema, types)
    const shapes =
      has(schema, 'const') || has(schema, 'enum')
        ? enumerated(schema, types)
        : types.length === 0
          ? [{ kind: 'any' } as const]
          : types.map((type) => this.#shapeOf(type, schema))
    return shapes.map((shape, index) => ({ shape, schema, index }))
  }

  #checkKeywords(schema: SchemaAt, types: readonly TypeName[]): void {
    const set = has(schema, 'const') || has(schema, 'enum')
    const known = new Set(set ? [] : types.flatMap((type) => keywords[type]))
    for (const key of keysOf(schema)) {
      const path = `${schema.path}.${key}`
      if (annotations.has(key) || combining.includes(key)) continue
      if (this.#strict && notStrict.has(key)) {
        throw new SchemaError(path, 'is not allowed in a strict schema')
      }
      if (!known.has(key)) throw new SchemaError(path, this.#unknownKeyword(key, set))
    }
  }

  #unknownKeyword(key: string, set: boolean): string {
    if (set) return "cannot stand beside 'enum' or 'const'"
    const understood = Object.values(keywords).some((list) => list.includes(key))
    return understood ? "needs the 'type' it belongs to" : 'is not a supported keyword'
  }

  #shapeOf(type: TypeName, schema: SchemaAt): Shape {
    switch (type) {
      case 'null':
      case 'boolean':
        return { kind: type }
      case 'string':
        return { kind: 'string', lengths: counts(schema, 'minLength', 'maxLength') }
      case 'integer':
      case 'number':
        return { kind: type, bounds: numberBounds(schema, type) }
      case 'array':
        return {
          kind: 'array',
          items: has(schema, 'items') ? at(schema, 'items') : 'any',
          counts: counts(schema, 'minItems', 'maxItems'),
        }
      case 'object':
        return this.#objectShape(schema)
    }
  }

  #objectShape(schema: SchemaAt): Shape {
    const properties = has(schema, 'properties') ? at(schema, 'properties') : null
    if (properties !== null && properties.node.kind !== 'object') {
      throw new SchemaError(properties.path, 'must be an object of schemas')
    }
    const names = properties === null ? [] : keysOf(properties)
    const known = new Set(names)
    const required = new Set(requiredNames(schema))
    for (const name of required) {
      if (!known.has(name)) {
        throw new SchemaError(`${schema.path}.required`, `names '${name}', which is no property`)
      }
    }
    if (this.#strict) checkStrict(schema, names, required)
    return {
      kind: 'object',
      properties: names.map((name) => ({
        name,
        schema: at(properties ?? schema, name),
        required: required.has(name),
      })),
      others: othersOf(schema),
    }
  }
}

/** Nothing but declared properties is made unless a schema asks for others, or is silent on both. */
function othersOf(schema: SchemaAt): SchemaAt | 'any' | null {
  if (!has(schema, 'additionalProperties')) return has(schema, 'properties') ? null : 'any'
  const others = at(schema, 'additionalProperties')
  if (others.node.kind !== 'boolean') return others
  return others.node.value ? 'any' : null
}

function checkStrict(
  schema: SchemaAt,
  names: readonly string[],
  required: ReadonlySet<string>,
): void {
  const closed = has(schema, 'additionalProperties')
    ? at(schema, 'additionalProperties').node
    : null
  if (closed?.kind !== 'boolean' || closed.value) {
    const path = `${schema.path}.additionalProperties`
    throw new SchemaError(path, 'must be false in a strict schema')
  }
  const optional = names.find((name) => !required.has(name))
  if (optional !== undefined) {
    throw new SchemaError(
      `${schema.path}.required`,
      `must list every property in a strict schema; '${optional}' is missing`,
    )
  }
}

function requiredNames(schema: SchemaAt): string[] {
  if (!has(schema, 'required')) return []
  return itemsOf(at(schema, 'required')).map(({ node, path }) => {
    if (node.kind !== 'string') throw new SchemaError(path, "must be a property's name")
    return node.value
  })
}

function typesOf(schema: SchemaAt): readonly TypeName[] {
  if (!has(schema, 'type')) {
    if (['properties', 'required', 'additionalProperties'].some((key) => has(schema, key))) {
      return ['object']
    }
    return has(schema, 'items') ? ['array'] : []
  }
  const type = at(schema, 'type')
  const listed = type.node.kind === 'array' ? itemsOf(type) : [type]
  if (listed.length > typeNames.length) throw new SchemaError(type.path, 'names a type twice')
  return listed.map(({ node, path }) => {
    const name = typeNames.find((known) => node.kind === 'string' && node.value === known)
    if (name === undefined) throw new SchemaError(path, `must be one of ${typeNames.join(', ')}`)
    return name
  })
}

/** The listed values that are of one of the types. */
function enumerated(schema: SchemaAt, types: readonly TypeName[]): Shape[] {
  const listed = has(schema, 'const') ? [at(schema, 'const')] : itemsOf(at(schema, 'enum'))
  const fitting = listed.filter(
    ({ node }) => types.length === 0 || types.some((t) => isOf(node, t)),
  )
  const strings = fitting.flatMap(({ node }) => (node.kind === 'string' ? [node.value] : []))
  const broken = fitting.find(({ node }) => !pythonJson(node).isWellFormed())
  if (broken !== undefined) throw new SchemaError(broken.path, 'is not valid Unicode')
  const texts = fitting.flatMap(({ node }) => (node.kind === 'string' ? [] : [pythonJson(node)]))
  return [
    ...(strings.length > 0 ? [{ kind: 'strings', values: strings } as const] : []),
    ...(texts.length > 0 ? [{ kind: 'words', texts } as const] : []),
  ]
}

function isOf(node: JsonNode, type: TypeName): boolean {
  if (type === 'integer') return node.kind === 'number' && Number.isInteger(Number(node.raw))
  return node.kind === type
}

function counts(schema: SchemaAt, least: string, most: string): Range {
  const range = {
    least: countAt(schema, least) ?? 0,
    most: countAt(schema, most) ?? Infinity,
  }
  if (range.least > range.most) {
    throw new SchemaError(`${schema.path}.${least}`, `is more than '${most}'`)
  }
  return range
}

function countAt(schema: SchemaAt, key: string): number | null {
  const value = numberAt(schema, key)
  if (value === null) return null
  if (Number.isInteger(value) && value >= 0 && value <= countMax) return value
  throw new SchemaError(`${schema.path}.${key}`, `must be a whole number up to ${countMax}`)
}

function numberAt(schema: SchemaAt, key: string): number | null {
  if (!has(schema, key)) return null
  const { node, path } = at(schema, key)
  const value = node.kind === 'number' ? Number(node.raw) : NaN
  if (!Number.isFinite(value)) throw new SchemaError(path, 'must be a number')
  return value
}

/** Both kinds of bound as inclusive whole ones; a number's are those of its part before the point. */
function numberBounds(schema: SchemaAt, type: 'integer' | 'number'): Range {
  const keys = ['minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum'] as const
  for (const key of keys) {
    const value = numberAt(schema, key)
    if (value === null) continue
    if (type === 'number' && !Number.isInteger(value)) {
      throw new SchemaError(`${schema.path}.${key}`, "must be whole for type 'number'")
    }
  }
  const above = numberAt(schema, 'exclusiveMinimum') ?? -Infinity
  const below = numberAt(schema, 'exclusiveMaximum') ?? Infinity
  const least = Math.max(Math.ceil(numberAt(schema, 'minimum') ?? -Infinity), Math.floor(above) + 1)
  const most = Math.min(Math.floor(numberAt(schema, 'maximum') ?? Infinity), Math.ceil(below) - 1)
  const path = keys.find((key) => has(schema, key)) ?? 'type'
  if (least > most) throw new SchemaError(`${schema.path}.${path}`, 'leaves no whole number')
  return { least, most }
}

/** Values a shape makes, to tell alternatives apart by: a kind, or one value of it. */
interface Mark {
  readonly kind: string
  readonly value: string | null
}

function marksOf(shape: Shape): Mark[] {
  if (shape.kind === 'words') return shape.texts.map(markOf)
  if (shape.kind === 'strings') return shape.values.map((value) => ({ kind: 'string', value }))
  return [{ kind: shape.kind === 'integer' ? 'number' : shape.kind, value: null }]
}

function markOf(text: string): Mark {
  if (text.startsWith('{')) return { kind: 'object', value: null }
  if (text.startsWith('[')) return { kind: 'array', value: null }
  if (text === 'null') return { kind: 'null', value: null }
  if (text === 'true' || text === 'false') return { kind: 'boolean', value: text }
  return { kind: 'number', value: String(Number(text)) }
}

type Taken = Map<string, Set<string> | 'all'>

function meets(taken: Taken, { kind, value }: Mark): boolean {
  if (taken.has('any') || (kind === 'any' && taken.size > 0)) return true
  const known = taken.get(kind)
  return known !== undefined && (known === 'all' || value === null || known.has(value))
}

function take(taken: Taken, { kind, value }: Mark): void {
  const known = taken.get(kind) ?? new Set()
  taken.set(kind, known === 'all' || value === null ? 'all' : known.add(value))
}

function has({ node }: SchemaAt, key: string): boolean {
  return node.kind === 'object' && node.members.has(key)
}

function keysOf({ node }: SchemaAt): string[] {
  return node.kind === 'object' ? [...node.members.keys()] : []
}

function at({ node, path }: SchemaAt, key: string): SchemaAt {
  const member = node.kind === 'object' ? node.members.get(key) : undefined
  if (member === undefined) throw new SchemaError(`${path}.${key}`, 'is missing')
  return { node: member, path: `${path}.${key}` }
}

function itemsOf({ node, path }: SchemaAt): SchemaAt[] {
  if (node.kind !== 'array') throw new SchemaError(path, 'must be an array')
  return node.items.map((item, index) => ({ node: item, path: `${path}[${index}]` }))
}

function itemAt(node: JsonNode, key: string): JsonNode | undefined {
  return node.kind === 'array' && /^\d+$/.test(key) ? node.items[Number(key)] : undefined
}

/** A step of a JSON pointer in a URI fragment; one with broken escapes leads nowhere. */
function decodeStep(step: string): string {
  return unescapeUri(step).replaceAll('~1', '/').replaceAll('~0', '~')
}

function unescapeUri(step: string): string {
  try {
    return decodeURIComponent(step)
  } catch (error) {
    if (error instanceof URIError) return step
    throw error
  }
}
