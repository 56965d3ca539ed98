import { forcesToolCall, type ChatRequest } from '#protocol/chat-completions.ts'
import { ApiError } from '#protocol/errors.ts'
import { answerGrammar, type AnswerForm } from '../grammar/answer-grammar.ts'
import type { Grammar } from '../grammar/grammar.ts'
import { SchemaError } from '../grammar/schema-error.ts'
import type { SchemaAt } from '../grammar/schema-shapes.ts'
import type { ToolForm, ToolsForm } from '../grammar/tool-call-text.ts'
import { jsonAt, type JsonNode } from '../text/python-json.ts'

export interface FormInput {
  readonly request: ChatRequest
  /** The answer begins in the chain of thought. */
  readonly thinking: boolean
  /** The `function` objects that may be called, in order of the request's tools. */
  readonly functions: readonly JsonNode[]
  /** The schema of `response_format`, in source form. */
  readonly responseSchema: JsonNode | null
}

/** Part of a schema's path or of a message that may be as long as a request. */
const shownUnitsMax = 512

/** What the answer is held to; null: nothing was asked that has to be held. Throws `ApiError`. */
export function grammarFor(input: FormInput): Grammar | null {
  const content = contentForm(input)
  const tools = toolsForm(input, content)
  if (content === null && tools === null) return null
  try {
    return answerGrammar({ thinking: input.thinking, content, tools })
  } catch (cause) {
    if (!(cause instanceof SchemaError)) throw cause
    const param = cause.path.slice(0, shownUnitsMax)
    const message = `'${param}' ${cause.message.slice(0, shownUnitsMax)}.`
    throw new ApiError('invalid_request_error', message, { cause, param })
  }
}

function contentForm({ request, responseSchema }: FormInput): AnswerForm['content'] {
  const type = request.response_format?.type ?? 'text'
  if (type === 'text') return null
  if (type === 'json_object') return 'json_object'
  const path = 'response_format.json_schema.schema'
  if (responseSchema === null) throw refusal(path, 'is required with "json_schema"')
  return { node: responseSchema, path }
}

function toolsForm(input: FormInput, content: AnswerForm['content']): ToolsForm | null {
  const { request, functions } = input
  const tools = functions.map((definition, index) => toolForm(definition, index))
  const choice = request.tool_choice
  if (forcesToolCall(request) && tools.length === 0) throw refusal('tool_choice', 'needs tools')
  checkStrictness(tools)
  if (choice != null && typeof choice === 'object') {
    const named = tools.filter(({ name }) => name === choice.function.name)
    if (named.length === 0)
      throw refusal('tool_choice', 'names a function that is not in the tools')
    return { tools: named.slice(0, 1), calls: 'one' }
  }
  if (tools.length === 0) return null
  if (choice === 'required') return { tools, calls: 'some' }
  const held = content !== null || tools.some(({ strict }) => strict)
  return held ? { tools, calls: 'optional' } : null
}

function toolForm(definition: JsonNode, index: number): ToolForm {
  const name = jsonAt(definition, 'name')
  const strict = jsonAt(definition, 'strict')
  const parameters = jsonAt(definition, 'parameters')
  return {
    name: name?.kind === 'string' ? name.value : '',
    strict: strict?.kind === 'boolean' && strict.value,
    parameters: schemaAt(parameters, `tools[${index}].function.parameters`),
  }
}

function schemaAt(node: JsonNode | undefined, path: string): SchemaAt | null {
  return node === undefined || node.kind === 'null' ? null : { node, path }
}

/** As DeepSeek has it: one strict function, and every one has to be. */
function checkStrictness(tools: readonly ToolForm[]): void {
  const loose = tools.findIndex(({ strict }) => !strict)
  if (loose < 0 || tools.every(({ strict }) => !strict)) return
  throw refusal(`tools[${loose}].function.strict`, 'must be true as it is for another function')
}

function refusal(param: string, problem: string): ApiError {
  return new ApiError('invalid_request_error', `'${param}' ${problem}.`, { param })
}
