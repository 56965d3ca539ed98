import { DSML } from '../text/control-tokens.ts'
import { hasEnd } from './completion-costs.ts'
import { GrammarBuilder, GrammarTooLarge, grammarStatesMax } from './grammar.ts'
import { JsonText } from './json-text.ts'
import { SchemaCompiler } from './json-schema.ts'
import { SchemaError } from './schema-error.ts'
import type { Property, SchemaAt, Shape, ShapeAt } from './schema-shapes.ts'
import { boundary, parameterNameStep, until, utf8Step } from './text-steps.ts'

export interface ToolForm {
  readonly name: string
  /** What the arguments are held to; null: the function takes none. */
  readonly parameters: SchemaAt | null
  /** To the letter, or refused; otherwise as far as the schema is supported. */
  readonly strict: boolean
}

export interface ToolsForm {
  readonly tools: readonly ToolForm[]
  /** `optional`: text may come instead or before; `some`: calls and nothing else; `one`: one call. */
  readonly calls: 'optional' | 'some' | 'one'
}

const parameterClose = `</${DSML}parameter>\n`
/** The output parser reads no longer names. */
const nameUnitsMax = 1000

type ObjectShape = Extract<Shape, { readonly kind: 'object' }>

/** Makes grammar of the markup that the models call tools with. */
export class ToolCallText {
  readonly #json: JsonText
  readonly #compilers: SchemaCompiler[] = []
  readonly #fallsBack: boolean
  #trialStatesLeft = grammarStatesMax

  /**
   * `json` must not let the markup's token into strings. `fallsBack`: arguments that are not strict
   * are free where their schema is not supported.
   */
  constructor(json: JsonText, options: { readonly fallsBack: boolean }) {
    this.#json = json
    this.#fallsBack = options.fallsBack
  }

  /** The rest of a block of calls from its name on. Returns the entries of the tools, in order. */
  addBlock(from: number, to: number, form: ToolsForm): readonly number[] {
    const { builder } = this.#json
    const invoke = builder.literal(from, `tool_calls>\n`)
    const called = builder.state()
    const entries = form.tools.map((tool) => this.#tool(tool))
    for (const entry of entries) builder.call(invoke, entry, called)
    if (form.calls !== 'one') builder.skip(called, invoke)
    builder.skip(builder.literal(called, `</${DSML}tool_calls>`), to)
    for (const compiler of this.#compilers) compiler.finish()
    return entries
  }

  #tool(tool: ToolForm): number {
    const { builder } = this.#json
    const entry = builder.state()
    const head = builder.literal(entry, `<${DSML}invoke name="${tool.name}">\n`)
    const tail = builder.state()
    this.#arguments(head, tail, tool)
    builder.end(builder.literal(tail, `</${DSML}invoke>\n`))
    return entry
  }

  /**
   * Tries the schema out: one that answers cannot be held to does no harm where that was not asked.
   * All trials together may take as many states as a grammar.
   */
  #isSupported(tool: ToolForm): boolean {
    const builder = new GrammarBuilder(this.#trialStatesLeft)
    const text = new ToolCallText(new JsonText(builder, DSML), { fallsBack: false })
    try {
      const start = builder.state()
      const [entry = start] = text.addBlock(start, builder.state(), { tools: [tool], calls: 'one' })
      return hasEnd(
        builder.finish(start, () => ''),
        entry,
      )
    } catch (error) {
      if (error instanceof SchemaError || error instanceof GrammarTooLarge) return false
      throw error
    } finally {
      this.#trialStatesLeft -= builder.size
    }
  }

  #arguments(from: number, to: number, tool: ToolForm): void {
    const { builder } = this.#json
    const { parameters } = tool
    if (parameters === null) return builder.skip(builder.literal(from, '\n'), to)
    if (this.#fallsBack && !tool.strict && !this.#isSupported(tool)) {
      return this.#anyParameters(from, to)
    }
    const compiler = new SchemaCompiler(this.#json, parameters, { strict: tool.strict })
    this.#compilers.push(compiler)
    for (const { shape, schema } of compiler.reader.shapes(parameters)) {
      if (shape.kind !== 'object' && shape.kind !== 'any') {
        throw new SchemaError(schema.path, 'must describe an object: the arguments by name')
      }
      if (shape.kind === 'any') this.#anyParameters(from, to)
      else this.#parameters(from, to, shape, compiler)
    }
  }

  /** Parameters in the order of their properties, optional ones perhaps left out. */
  #parameters(from: number, to: number, shape: ObjectShape, compiler: SchemaCompiler): void {
    const { builder } = this.#json
    const { properties, others } = shape
    if (properties.length === 0 && others === null) {
      return builder.skip(builder.literal(from, '\n'), to)
    }
    let here = from
    for (const property of properties) {
      const next = builder.state()
      this.#property(here, next, property, compiler)
      if (!property.required) builder.skip(here, next)
      here = next
    }
    if (others === 'any') return this.#anyParameters(here, to)
    if (others !== null) throw new SchemaError(others.path, 'is supported as true or false here')
    builder.skip(here, to)
  }

  #property(from: number, to: number, property: Property, compiler: SchemaCompiler): void {
    const { name, schema } = property
    if (name === '' || name.length > nameUnitsMax || /["\n]/.test(name) || !name.isWellFormed()) {
      throw new SchemaError(schema.path, "has a name that the models' tool calls cannot spell")
    }
    if (this.#json.forbids(name)) throw new SchemaError(schema.path, 'holds markup of tool calls')
    const { builder } = this.#json
    const kind = builder.literal(from, `<${DSML}parameter name="${name}" string="`)
    const json = builder.literal(kind, 'false">')
    const behindJson = builder.state()
    const shapes = compiler.reader.shapes(schema)
    const texts = shapes.filter(isPlainText)
    if (texts.length > 0) this.#texts(builder.literal(kind, 'true">'), to, texts)
    for (const shape of shapes) {
      if (!isPlainText(shape)) builder.call(json, compiler.shape(shape), behindJson)
    }
    if (texts.length < shapes.length) builder.skip(builder.literal(behindJson, parameterClose), to)
  }

  /** Strings as they are, without quotes and escapes. */
  #texts(from: number, to: number, shapes: readonly ShapeAt[]): void {
    const { builder } = this.#json
    const words = builder.state()
    for (const { shape, schema } of shapes) {
      if (shape.kind !== 'strings') {
        builder.call(from, this.#plainText(), to)
        continue
      }
      const held = shape.values.find((value) => this.#json.forbids(value))
      if (held !== undefined) throw new SchemaError(schema.path, 'holds markup of tool calls')
      builder.anyLiteral(from, shape.values, words)
    }
    builder.skip(builder.literal(words, parameterClose), to)
  }

  /** Any text, up to and with the tag that closes its parameter. */
  #plainText(): number {
    return this.#json.part('plain text', (entry) => {
      const end = this.#json.builder.state()
      this.#json.builder.text(entry, boundary, until(utf8Step, parameterClose), end)
      return end
    })
  }

  /** Parameters of any names and values, and any number of them. */
  #anyParameters(from: number, to: number): void {
    const json = this.#json
    const { builder } = json
    const part = json.part('any parameters', (entry) => {
      const again = builder.state()
      builder.skip(entry, again)
      const name = builder.literal(again, `<${DSML}parameter name="`)
      const kind = builder.state()
      builder.text(name, 'first', json.guarded(parameterNameStep), kind)
      const stringly = builder.literal(kind, ' string="')
      builder.call(builder.literal(stringly, 'true">'), this.#plainText(), again)
      const value = json.through(builder.literal(stringly, 'false">'), json.value())
      builder.skip(builder.literal(value, parameterClose), again)
      return again
    })
    builder.call(from, part, to)
  }
}

/** What parameters carry as plain text. Lengths are counted in the characters of a JSON string. */
function isPlainText({ shape }: ShapeAt): boolean {
  if (shape.kind === 'strings') return true
  return shape.kind === 'string' && shape.lengths.least === 0 && shape.lengths.most === Infinity
}
