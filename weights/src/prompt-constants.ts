import { CheckpointError } from './checkpoint-error.ts'
import type { PromptConstants, Release } from './manifest.ts'
import { readPythonConstants, type PythonValue } from './python-literals.ts'

/** Tokens the tool template names in braces. */
const templateTokens = ['dsml_token', 'thinking_start_token', 'thinking_end_token'] as const

const wantedNames: ReadonlySet<string> = new Set([
  'TOOLS_TEMPLATE',
  'REASONING_EFFORT_MAX',
  'REASONING_EFFORT_PROMPTS',
  'response_format_template',
  ...templateTokens,
])

/**
 * Reads a release's encoder file for the texts its model was trained with. The file is parsed, never
 * run. The effort texts tell the releases apart: a single one in the preview, a table of three later.
 */
export function parsePromptConstants(source: string): {
  readonly release: Release
  readonly promptConstants: PromptConstants
} {
  const constants = readPythonConstants(source, wantedNames)
  const efforts = constants.get('REASONING_EFFORT_PROMPTS')
  return {
    release: efforts === undefined ? 'preview' : '0731',
    promptConstants: {
      ...toolTexts(constants),
      ...(efforts === undefined ? previewEffort(constants) : laterEfforts(efforts)),
      ...responseFormat(constants),
    },
  }
}

type Constants = ReadonlyMap<string, PythonValue>

function toolTexts(constants: Constants): PromptConstants {
  const template = textOf(constants, 'TOOLS_TEMPLATE')
  if (template === null) return {}
  const tokens = new Map(
    templateTokens.flatMap((name) => {
      const text = textOf(constants, name)
      return text === null ? [] : [[name, text] as const]
    }),
  )
  const [toolsHead, toolsTail] = splitTemplate('TOOLS_TEMPLATE', template, 'tool_schemas', tokens)
  return { toolsHead, toolsTail }
}

function responseFormat(constants: Constants): PromptConstants {
  const name = 'response_format_template'
  const template = textOf(constants, name)
  if (template === null) return {}
  const [head, tail] = splitTemplate(name, template, 'schema', new Map())
  if (tail !== '') throw invalid(name, 'goes on after its schema, which no prompt rule allows for')
  return { responseFormat: head }
}

function previewEffort(constants: Constants): PromptConstants {
  const effortMax = textOf(constants, 'REASONING_EFFORT_MAX')
  return effortMax === null ? {} : { effortMax }
}

/** The table's keys are the effort levels; `low` adds no text. */
function laterEfforts(table: PythonValue): PromptConstants {
  const name = 'REASONING_EFFORT_PROMPTS'
  const levels = typeof table === 'string' ? null : table
  const [low, high, max] = ['low', 'high', 'max'].map((level) => levels?.get(level))
  if (levels?.size !== 3 || low !== '' || high === undefined || max === undefined) {
    throw invalid(name, 'is not a table of low (empty), high and max')
  }
  return { effortHigh: high, effortMax: max }
}

function textOf(constants: Constants, name: string): string | null {
  const value = constants.get(name)
  if (value === undefined) return null
  if (typeof value === 'string') return value
  throw invalid(name, 'is a table and not text')
}

/**
 * The texts before and after `{placeholder}` of a `str.format` template, other names in braces
 * replaced from `values`, doubled braces made single.
 */
function splitTemplate(
  name: string,
  template: string,
  placeholder: string,
  values: ReadonlyMap<string, string>,
): [head: string, tail: string] {
  const parts = ['']
  for (const [piece, field] of template.matchAll(/\{\{|\}\}|\{([A-Za-z_]\w*)\}|[{}]|[^{}]+/g)) {
    if (field === placeholder) {
      parts.push('')
      continue
    }
    const text = field === undefined ? literal(piece) : values.get(field)
    if (text === undefined) throw invalid(name, `has ${piece}, for which the file has no value`)
    parts[parts.length - 1] += text
  }
  const [head, tail] = parts
  if (head === undefined || tail === undefined || parts.length !== 2) {
    throw invalid(name, `has {${placeholder}} ${parts.length - 1} times instead of once`)
  }
  return [head, tail]
}

/** Text outside of fields; a single brace there would be an error in Python too. */
function literal(piece: string): string | undefined {
  if (piece === '{{') return '{'
  if (piece === '}}') return '}'
  return piece === '{' || piece === '}' ? undefined : piece
}

function invalid(name: string, why: string): CheckpointError {
  return new CheckpointError('prompt_constants_invalid', name, `the encoder's ${name} ${why}`)
}
