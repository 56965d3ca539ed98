import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { z } from 'zod'
import type { PromptConstants } from '#weights/manifest.ts'
import type { Message } from './conversation.ts'
import { promptText, renderPrompt } from './prompt.ts'
import type { Effort } from './prompt.ts'
import { fromValue } from './python-json.ts'

/** Where the vectors and their hashes come from is told beside them. */
const vectorsUrl = new URL('../../../test/vectors/prompt/vectors.json', import.meta.url)

interface Vector {
  readonly name: string
  readonly options: { thinking: boolean; effort?: Effort; dropThinking?: boolean }
  readonly messages: readonly Record<string, unknown>[]
  readonly prompt: string
  readonly sha256: string
  readonly bytes?: number
  readonly constants?: readonly (keyof PromptConstants)[]
}

const { vectors, constants: released } = JSON.parse(readFileSync(vectorsUrl, 'utf8')) as {
  vectors: readonly Vector[]
  constants: Readonly<Record<string, string>>
}

const ownConstants: PromptConstants = {
  toolsHead: 'own head\n',
  toolsTail: '\nown tail',
  effortMax: 'own effort\n',
  responseFormat: 'own format: ',
}

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex')

function rendered(vector: Vector, constants: PromptConstants): string {
  const messages = vector.messages.map((message) => ({
    ...message,
    ...(Array.isArray(message['tools']) && {
      tools: message['tools'].map((tool: unknown) => fromValue(tool)),
    }),
    ...('responseFormat' in message && { responseFormat: fromValue(message['responseFormat']) }),
  })) as unknown as readonly Message[]
  const options = { effort: 'default' as const, ...vector.options, constants }
  return promptText(renderPrompt({ messages }, options))
}

const filled = (pattern: string, constants: PromptConstants): string =>
  Object.entries(constants).reduce(
    (text, [name, value]) => text.replace(`{${name}}`, value),
    pattern,
  )

describe('prompt vectors', () => {
  it('number the sixteen of the specification, the tools in both modes', () => {
    expect(vectors.map(({ name }) => Number.parseInt(name))).toEqual([
      1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 15, 16,
    ])
  })

  it.each(vectors.filter(({ constants }) => constants === undefined))(
    '$name: byte for byte, and by the released hash',
    (vector) => {
      const prompt = rendered(vector, {})
      expect(prompt).toBe(vector.prompt)
      expect(sha256(prompt)).toBe(vector.sha256)
    },
  )

  it.each(vectors.filter(({ constants }) => constants !== undefined))(
    '$name: with constants of our own in the places of the released',
    (vector) => {
      expect(rendered(vector, ownConstants)).toBe(filled(vector.prompt, ownConstants))
    },
  )
})

const constantsSchema = z.record(z.string(), z.string())
const constantsFile = process.env['SLUICE_PROMPT_CONSTANTS']
const needed = 'SLUICE_PROMPT_CONSTANTS names no file with the released prompt constants'

function suppliedConstants(path: string): PromptConstants {
  const file = z.record(z.string(), z.unknown()).parse(JSON.parse(readFileSync(path, 'utf8')))
  return constantsSchema.parse(file['promptConstants'] ?? file)
}

describe('released prompt constants', () => {
  it.for(Object.keys(released))('%s has the hash of the released text', (name, context) => {
    if (constantsFile === undefined) return context.skip(needed)
    const constants: Record<string, string | undefined> = { ...suppliedConstants(constantsFile) }
    expect(sha256(constants[name] ?? '')).toBe(released[name])
  })

  it.for(vectors.filter(({ constants }) => constants !== undefined))(
    '$name has the released hash',
    (vector, context) => {
      if (constantsFile === undefined) return context.skip(needed)
      const prompt = rendered(vector, suppliedConstants(constantsFile))
      expect(sha256(prompt)).toBe(vector.sha256)
      if (vector.bytes !== undefined) expect(Buffer.byteLength(prompt)).toBe(vector.bytes)
    },
  )
})
