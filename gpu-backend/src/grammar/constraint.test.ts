import { describe, expect, it } from 'vitest'
import { toyTokenizer } from '#weights/toy/tokenizer.ts'
import { toyConstraints } from '../../../test/support/toy-constraints.ts'
import type { TokenMask } from '../engine/logit-row.ts'
import { seededRandom, type Random } from '../engine/random.ts'
import { EOS } from '../text/control-tokens.ts'
import { parseJsonSource } from '../text/python-json.ts'
import { loadTokenizer, readTokenBytes } from '../text/tokenizer.ts'
import { answerGrammar, formControls, type AnswerForm } from './answer-grammar.ts'
import type { Constraints } from './constraint.ts'
import type { Grammar } from './grammar.ts'
import { accepts, begins } from './testing/accepts.ts'

const json = new TextEncoder().encode(JSON.stringify(toyTokenizer(512)))
const tokens = readTokenBytes(json, formControls)
const bytesOf = new Map(tokens.map(({ id, bytes }) => [id, bytes]))
const endToken = loadTokenizer(json).controlId(EOS)
const constraints = toyConstraints()

const idsIn = (mask: TokenMask): number[] =>
  Array.from({ length: 512 }, (_, id) => id).filter(
    (id) => ((mask[id >> 5] ?? 0) >>> (id & 31)) & 1,
  )

/** What a mask has to be, every token tried on the grammar itself. */
function expectedIds(grammar: Grammar, before: readonly number[]): number[] {
  const next = tokens.filter(({ bytes }) => begins(grammar, [...before, ...bytes]))
  const whole = accepts(grammar, Buffer.from(before).toString())
  return [...next.map(({ id }) => id), ...(whole ? [endToken] : [])].toSorted((a, b) => a - b)
}

function pick(from: readonly number[], random: Random): number {
  return from[Math.floor(random() * from.length)] ?? endToken
}

function schema(value: unknown) {
  return { node: parseJsonSource(JSON.stringify(value)), path: 'schema' }
}

const city = {
  type: 'object',
  properties: { city: { type: 'string' }, n: { type: 'integer', minimum: -5, maximum: 120 } },
  required: ['city'],
  additionalProperties: { type: 'string', maxLength: 3 },
}
const closed = { ...city, required: ['city', 'n'], additionalProperties: false }
const free: AnswerForm = { thinking: false, content: null, tools: null }

const forms: Record<string, AnswerForm> = {
  'JSON behind a thought': { ...free, thinking: true, content: 'json_object' },
  'a schema': { ...free, content: schema(city) },
  'alternatives that begin alike': {
    ...free,
    content: schema({ anyOf: [{ const: 'aaab' }, { type: 'string' }, { const: 'aa' }] }),
  },
  'a forced call': {
    ...free,
    tools: { calls: 'some', tools: [{ name: 'f', strict: true, parameters: schema(closed) }] },
  },
  'a call that may come': {
    ...free,
    tools: { calls: 'optional', tools: [{ name: 'f', strict: true, parameters: schema(closed) }] },
  },
}

describe('masks', () => {
  it.each(Object.entries(forms))('allow exactly what %s may go on with', (_, form) => {
    const grammar = answerGrammar(form)
    const random = seededRandom(17)
    for (let answer = 0; answer < 2; answer++) {
      const constraint = constraints.create(grammar, 100_000)
      const text: number[] = []
      for (let step = 0; step < 14; step++) {
        const ids = idsIn(constraint.mask())
        expect(ids, Buffer.from(text).toString()).toEqual(expectedIds(grammar, text))
        const token = pick(ids, random)
        constraint.accept(token)
        if (token === endToken) break
        text.push(...(bytesOf.get(token) ?? []))
      }
    }
  })

  it('leave a way to the end at every step, and no more than there is room for', () => {
    for (const [name, form] of Object.entries(forms)) {
      const grammar = answerGrammar(form)
      for (let seed = 0; seed < 20; seed++) {
        const random = seededRandom(seed)
        const room = 160 + seed
        const constraint = constraints.create(grammar, room)
        const text: number[] = []
        let token = -1
        for (let step = 0; step < room && token !== endToken; step++) {
          token = pick(idsIn(constraint.mask()), random)
          constraint.accept(token)
          text.push(...(bytesOf.get(token) ?? []))
        }
        expect(token, `${name}, seed ${seed}`).toBe(endToken)
        if (form.tools === null && !form.thinking) {
          expect(() => JSON.parse(Buffer.from(text).toString()) as unknown).not.toThrow()
        }
      }
    }
  })

  it('of one grammar serve many answers, which do not disturb each other', () => {
    const grammar = answerGrammar({ ...free, content: 'json_object' })
    const [one, other] = [constraints.create(grammar, 50), constraints.create(grammar, 50)]
    const before = idsIn(one.mask())
    other.accept(pick(idsIn(other.mask()), () => 0))
    expect(idsIn(one.mask())).toEqual(before)
  })

  it('never allow an answer to end before it may', () => {
    const grammar = answerGrammar({ ...free, content: 'json_object' })
    expect(() => constraints.create(grammar, 50).accept(endToken)).toThrow(
      'an answer ends where it may',
    )
  })

  it('are the same for an answer whatever came by before, even where readings are given up', () => {
    // Three hundred alternatives that begin alike, each of which opens the next three hundred.
    const alike = Array.from({ length: 300 }, (_, index) => ({
      type: 'array',
      items: { $ref: '#' },
      minItems: 1 + (index % 3),
    }))
    const node = parseJsonSource(JSON.stringify({ anyOf: [...alike, { type: 'null' }] }))
    const grammar = answerGrammar({ ...free, content: { node, path: 'schema' } })
    const answer = (own: Constraints, seed: number): number[] => {
      const random = seededRandom(seed)
      const constraint = own.create(grammar, 60)
      const chosen: number[] = []
      while (chosen.at(-1) !== endToken) {
        chosen.push(pick(idsIn(constraint.mask()), random))
        constraint.accept(chosen.at(-1) ?? -1)
      }
      return chosen
    }
    const [used, fresh] = [toyConstraints(), toyConstraints()]
    answer(used, 1)
    answer(used, 2)
    const ids = answer(fresh, 3)
    expect(answer(used, 3)).toEqual(ids)
    const text = ids
      .slice(0, -1)
      .map((id) => Buffer.from(bytesOf.get(id) ?? []).toString())
      .join('')
    expect(() => JSON.parse(text) as unknown).not.toThrow()
  })

  it('stay right when so much was remembered that it is thrown away', () => {
    const deep = answerGrammar({ ...free, content: schema({}) })
    const constraint = constraints.create(deep, 1_000_000)
    const open = tokens.find(({ bytes }) => bytes.length === 1 && bytes[0] === 0x5b)?.id ?? -1
    for (let level = 0; level < 3000; level++) {
      constraint.mask()
      constraint.accept(open)
    }
    const close = tokens.find(({ bytes }) => bytes.length === 1 && bytes[0] === 0x5d)?.id ?? -1
    for (let level = 0; level < 3000; level++) constraint.accept(close)
    expect(idsIn(constraint.mask())).toEqual([endToken])
  })
})
