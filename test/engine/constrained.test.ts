import { strict as assert } from 'node:assert'
import { beforeAll, describe, expect, it } from 'vitest'
import { z } from 'zod'
import { seededRandom } from '../../gpu-backend/src/engine/random.ts'
import type { SchedulerLimits } from '../../gpu-backend/src/engine/scheduler.ts'
import { Speculation } from '../../gpu-backend/src/engine/speculation.ts'
import { answerGrammar } from '../../gpu-backend/src/grammar/answer-grammar.ts'
import { completionCosts } from '../../gpu-backend/src/grammar/completion-costs.ts'
import { parseJsonSource } from '../../gpu-backend/src/text/python-json.ts'
import { EngineRun, type Asked } from '../support/engine-run.ts'
import { cpuDevice, referenceDevice } from '../support/model-devices.ts'
import { randomSchema, type Schema } from '../support/random-schema.ts'
import { toyConstraints } from '../support/toy-constraints.ts'
import { goldenTokens, loadToyModel } from '../support/toy-model.ts'
import { toyTextTokenizer } from '../support/toy-served.ts'

const limits: SchedulerLimits = {
  runningMax: 32,
  waitingMax: 2000,
  waitingTokensMax: 1_000_000,
  stepTokensMax: 256,
}

/** 1,000 of them in the long mode: SLUICE_RANDOM_SCHEMAS=1000. */
const schemaCount = Number(process.env['SLUICE_RANDOM_SCHEMAS'] ?? 50)
const schemas: readonly Schema[] = Array.from({ length: schemaCount }, (_, seed) =>
  randomSchema(seededRandom(seed)),
)

const exact = cpuDevice({ numerics: 'exact' })
const on = exact.missing ? referenceDevice : exact

function askedFor(schema: Schema, id: number): Asked {
  const node = parseJsonSource(JSON.stringify(schema))
  const content = { node, path: 'schema' }
  const grammar = answerGrammar({ thinking: false, content, tools: null })
  const shortestBytes = completionCosts(grammar, null)[grammar.start] ?? 0
  return {
    id,
    prompt: Int32Array.of(5, 15, 2 + (id % 500)),
    // Room for the shortest value there is, and for a little of what a lost model makes of it.
    outputTokensMax: shortestBytes + 100,
    sampling: { temperature: 1, topP: id % 2 === 0 ? 1 : 0.9, seed: id },
    grammar,
  }
}

/** Whatever each schema's answer turned out to be, all asked at once. */
async function answersTo(asked: readonly Asked[], options: { draftsMax: number; pages: number }) {
  const { draftsMax, pages } = options
  const cache = { sequencesMax: limits.runningMax, tokensMax: pages * 128, prefixesMax: 0 }
  const { model } = await loadToyModel({ cache, mtp: draftsMax > 0 }, on.open())
  const speculation = draftsMax > 0 ? new Speculation(model, draftsMax) : null
  const run = new EngineRun(model, limits, speculation, toyConstraints())
  for (const one of asked) run.submit(one)
  run.drain()
  return asked.map(({ id }) => {
    const { tokens, ended } = run.answer(id)
    const end = ended === 'stop' ? -1 : undefined
    return { ended, text: toyTextTokenizer.decode(tokens.slice(0, end)), stats: run.stats }
  })
}

function problemOf(schema: Schema, { ended, text }: { ended: string | null; text: string }) {
  if (ended !== 'stop') return `ended with ${ended}`
  try {
    const checked = z.fromJSONSchema(schema).safeParse(JSON.parse(text))
    return checked.success ? null : checked.error.message
  } catch (error) {
    return String(error)
  }
}

describe(`answers of a model of random weights (${on.label})`, () => {
  const asked = schemas.map(askedFor)
  let texts: string[] = []

  beforeAll(async () => {
    const answers = await answersTo(asked, { draftsMax: 0, pages: 256 })
    texts = answers.map(({ text }) => text)
    for (const [index, schema] of schemas.entries()) {
      const answer = answers[index]
      assert(answer !== undefined)
      const problem = problemOf(schema, answer)
      if (problem !== null) {
        throw new Error(`schema ${index} ${JSON.stringify(schema)}: ${problem}\n${answer.text}`)
      }
    }
  }, 600_000)

  it(`parse and fit their schemas, all ${schemaCount} of them`, () => {
    expect(texts.length).toBe(schemaCount)
    expect(new Set(texts).size).toBeGreaterThan(schemaCount / 2)
  })

  it('are the same where sequences are preempted, and where tokens are guessed ahead', async () => {
    // Prompts that fill a page nearly: every answer comes to need a second one.
    const long = asked.slice(0, 16).map((one) => ({
      ...one,
      prompt: goldenTokens(one.id, one.id + 120),
      outputTokensMax: one.outputTokensMax + 150,
    }))
    const free = await answersTo(long, { draftsMax: 0, pages: 64 })
    const tight = await answersTo(long, { draftsMax: 0, pages: 6 })
    const guessed = await answersTo(long, { draftsMax: 3, pages: 64 })
    expect(tight[0]?.stats.preemptionsTotal).toBeGreaterThan(0)
    expect(guessed[0]?.stats.draftedTokensTotal).toBeGreaterThan(0)
    const textOf = ({ text }: { readonly text: string }): string => text
    expect(tight.map(textOf)).toEqual(free.map(textOf))
    expect(guessed.map(textOf)).toEqual(free.map(textOf))
  })
})

describe('a budget', () => {
  const grammar = answerGrammar({ thinking: false, content: 'json_object', tools: null })

  it('is enough for JSON that ends, however small', async () => {
    const asked = Array.from({ length: 30 }, (_, id) => ({
      id,
      prompt: Int32Array.of(7, 2 + id),
      outputTokensMax: 3 + id,
      sampling: { temperature: 2, topP: 1, seed: id },
      grammar,
    }))
    const answers = await answersTo(asked, { draftsMax: 0, pages: 256 })
    for (const { ended, text } of answers) {
      expect(ended).toBe('stop')
      expect(() => JSON.parse(text) as unknown, text).not.toThrow()
    }
  })

  it('that no value fits ends the answer as any other does', async () => {
    const asked = [{ id: 1, prompt: Int32Array.of(7), outputTokensMax: 2, grammar }]
    const [answer] = await answersTo(asked, { draftsMax: 0, pages: 256 })
    expect(answer?.ended).toBe('length')
    expect(answer?.text).toMatch(/^\{/)
  })
})
