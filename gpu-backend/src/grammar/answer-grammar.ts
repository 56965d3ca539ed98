import { createHash } from 'node:crypto'
import { DSML, THINK_END } from '../text/control-tokens.ts'
import { completionCosts } from './completion-costs.ts'
import { GrammarBuilder, GrammarTooLarge, type Grammar } from './grammar.ts'
import { JsonText } from './json-text.ts'
import { SchemaCompiler } from './json-schema.ts'
import { SchemaError } from './schema-error.ts'
import type { SchemaAt } from './schema-shapes.ts'
import { boundary, until, utf8Step } from './text-steps.ts'
import { ToolCallText, type ToolsForm } from './tool-call-text.ts'

/** What an answer is held to. */
export interface AnswerForm {
  /** The answer begins in the chain of thought, which is free; the form is that of what follows. */
  readonly thinking: boolean
  /** null: content is text. */
  readonly content: 'json_object' | SchemaAt | null
  /** null: there are none, or whether and how they are called is left to the model. */
  readonly tools: ToolsForm | null
}

/** The control tokens that forms are made of. No answer that is held to one has any other. */
export const formControls: readonly string[] = [DSML, THINK_END]

/** A part that has to have an end, and what to blame if it has none. */
interface Root {
  readonly entry: number
  readonly path: string
}

/**
 * The grammar of an answer's form. Throws `SchemaError` for a schema that answers cannot be held to,
 * in time and space bounded by its length.
 */
export function answerGrammar(form: AnswerForm): Grammar {
  const builder = new GrammarBuilder()
  const start = builder.state()
  const roots: Root[] = []
  try {
    addAnswer(builder, start, form, roots)
  } catch (cause) {
    if (!(cause instanceof GrammarTooLarge)) throw cause
    const path = form.tools === null ? 'response_format' : 'tools'
    throw new SchemaError(path, `is too large: it ${cause.message}`)
  }
  const grammar = builder.finish(start, keyOf)
  const costs = completionCosts(grammar, null)
  for (const { entry, path } of roots) {
    if (costs[entry] === Infinity)
      throw new SchemaError(path, 'is fitted by no value short enough for an answer')
  }
  return grammar
}

function addAnswer(builder: GrammarBuilder, start: number, form: AnswerForm, roots: Root[]): void {
  const { thinking, content, tools } = form
  const [body, end] = [builder.state(), builder.state()]
  builder.end(end)
  if (thinking) builder.text(start, boundary, until(utf8Step, THINK_END), body)
  else builder.skip(start, body)
  const json = new JsonText(builder, tools === null ? null : DSML)
  if (content !== null && (tools === null || tools.calls === 'optional')) {
    addContent(json, { from: body, to: end, content }, roots)
  }
  if (tools === null) return
  const block = builder.state()
  if (content === null && tools.calls === 'optional') {
    builder.text(body, boundary, until(utf8Step, `<${DSML}`), block, true)
  } else {
    builder.skip(builder.literal(body, `\n\n<${DSML}`), block)
  }
  const entries = new ToolCallText(json, { fallsBack: true }).addBlock(block, end, tools)
  tools.tools.forEach(({ parameters }, index) => {
    roots.push({ entry: entries[index] ?? 0, path: parameters?.path ?? 'tools' })
  })
}

function addContent(
  json: JsonText,
  edge: {
    readonly from: number
    readonly to: number
    readonly content: 'json_object' | SchemaAt
  },
  roots: Root[],
): void {
  const { content, from, to } = edge
  if (content === 'json_object') return json.builder.call(from, json.object(), to)
  const compiler = new SchemaCompiler(json, content, { strict: false })
  const entry = compiler.value(content)
  compiler.finish()
  json.builder.call(from, entry, to)
  roots.push({ entry, path: content.path })
}

function keyOf(grammar: Omit<Grammar, 'key'>): string {
  const hash = createHash('sha256')
  for (const [name, part] of Object.entries(grammar)) {
    hash.update(`${name} ${typeof part === 'number' ? part : part.byteLength}\n`)
    if (typeof part !== 'number') hash.update(part)
  }
  return hash.digest('hex')
}
