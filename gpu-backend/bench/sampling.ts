import { cpus } from 'node:os'
import { readV3TokenizerJson } from '../../test/support/v4-tokenizer.ts'
import { createSampler, type TokenConstraint } from '../src/engine/sampler.ts'
import { type Random, seededRandom } from '../src/engine/random.ts'
import { answerGrammar, formControls } from '../src/grammar/answer-grammar.ts'
import { Constraints } from '../src/grammar/constraint.ts'
import type { Grammar } from '../src/grammar/grammar.ts'
import { parseJsonSource } from '../src/text/python-json.ts'
import { readTokenBytes } from '../src/text/tokenizer.ts'
import { type Bench, median, round3, timed } from './bench.ts'

type Print = (line: string) => void

const vocabSize = 129_280
const endToken = 1
const rowCount = 16
const rounds = 9
const answerTokens = 300

const person = {
  type: 'object',
  properties: {
    name: { type: 'string' },
    age: { type: 'integer' },
    tags: { type: 'array', items: { type: 'string' } },
    kind: { enum: ['person', 'company', 'animal'] },
    address: {
      type: 'object',
      properties: { street: { type: 'string' }, zip: { type: 'string' } },
      required: ['street', 'zip'],
      additionalProperties: false,
    },
  },
  required: ['name', 'age', 'tags', 'kind', 'address'],
  additionalProperties: false,
}

/**
 * `npm run bench -- sampling`: what it takes to draw a token from a row of the released vocabulary,
 * and to say which tokens a schema allows, in times of reading the row once.
 */
export const samplingBench: Bench = (print) => {
  const random = seededRandom(1)
  const rows = Array.from({ length: rowCount }, () => peakedRow(random))
  const reading = perRow(rows, readRow)
  print(`reading a row of ${vocabSize}: ${microseconds(reading)}`)
  const ratios = { ...drawing(rows, reading, print), ...masking(rows, reading, print) }
  const conditions = { cpu: cpus()[0]?.model ?? 'unknown', vocabSize, rows: rowCount, answerTokens }
  return Promise.resolve({ conditions, ratios })
}

/** Nearly everything far below a few dozen likely tokens, as a trained model has it. */
function peakedRow(random: Random): Float32Array {
  const bell = (): number => random() + random() + random() + random() - 2
  const row = Float32Array.from({ length: vocabSize }, () => 5 * bell())
  for (let peak = 0; peak < 30; peak++) row[Math.floor(random() * vocabSize)] = 18 + 5 * bell()
  return row
}

function readRow(row: Float32Array): number {
  let [a, b, c, d] = [0, 0, 0, 0]
  for (let at = 0; at < row.length; at += 4) {
    a += row[at] ?? 0
    b += row[at + 1] ?? 0
    c += row[at + 2] ?? 0
    d += row[at + 3] ?? 0
  }
  return a + b + c + d
}

/** Seconds a row, the median of some rounds. */
function perRow(rows: readonly Float32Array[], work: (row: Float32Array) => unknown): number {
  const round = (): number =>
    timed(() => {
      for (const row of rows) work(row)
    }) / rows.length
  for (let warm = 0; warm < 3; warm++) round()
  return median(Array.from({ length: rounds }, round))
}

function drawing(
  rows: readonly Float32Array[],
  reading: number,
  print: Print,
): Record<string, number> {
  const kinds = {
    greedy: { temperature: 0, topP: 1, topLogprobs: null },
    'temperature 1': { temperature: 1, topP: 1, topLogprobs: null },
    'temperature 0.6, top_p 0.95': { temperature: 0.6, topP: 0.95, topLogprobs: null },
    'temperature 1, top_p 0.95': { temperature: 1, topP: 0.95, topLogprobs: null },
    'greedy, logprobs': { temperature: 0, topP: 1, topLogprobs: 5 },
  }
  return Object.fromEntries(
    Object.entries(kinds).map(([name, { topLogprobs, ...sampling }]) => {
      const sampler = createSampler({ sampling, seed: 1, topLogprobs, constraint: null })
      const seconds = perRow(rows, (row) => sampler.next(row))
      print(`${name}: ${microseconds(seconds)}, ${(seconds / reading).toFixed(1)} readings`)
      return [name, round3(seconds / reading)]
    }),
  )
}

function masking(
  rows: readonly Float32Array[],
  reading: number,
  print: Print,
): Record<string, number> {
  const tokens = readTokenBytes(readV3TokenizerJson(), formControls)
  let constraints = new Constraints([], { size: vocabSize, endToken })
  const tree = timed(() => {
    constraints = new Constraints(tokens, { size: vocabSize, endToken })
  })
  const node = parseJsonSource(JSON.stringify(person))
  const content = { node, path: 'schema' }
  const grammar = answerGrammar({ thinking: false, content, tools: null })
  const compile = timed(() => answerGrammar({ thinking: false, content, tools: null }))
  print(`the vocabulary's tree: ${microseconds(tree)}; a schema: ${microseconds(compile)}`)
  const first = maskSeconds(constraints, grammar, rows, 1)
  const later = maskSeconds(constraints, grammar, rows, 2)
  print(`a mask: ${microseconds(first)} in a schema's first answer, ${microseconds(later)} later`)
  return { 'mask, first answer': round3(first / reading), 'mask, later': round3(later / reading) }
}

/** Seconds a mask takes in an answer that wanders until its budget brings it home. */
function maskSeconds(
  constraints: Constraints,
  grammar: Grammar,
  rows: readonly Float32Array[],
  seed: number,
): number {
  const inner = constraints.create(grammar, answerTokens)
  let seconds = 0
  let count = 0
  const constraint: TokenConstraint = {
    accept: (token) => inner.accept(token),
    mask: () => {
      const started = performance.now()
      const mask = inner.mask()
      seconds += (performance.now() - started) / 1000
      count += 1
      return mask
    },
  }
  const sampling = { temperature: 1, topP: 1 }
  const sampler = createSampler({ sampling, seed, topLogprobs: null, constraint })
  for (let token = -1, step = 0; token !== endToken && step < answerTokens; step++) {
    token = sampler.next(rows[step % rows.length] ?? new Float32Array()).token
  }
  return seconds / count
}

function microseconds(seconds: number): string {
  return `${(seconds * 1e6).toFixed(0)} µs`
}
