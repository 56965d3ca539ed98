import { strict as assert } from 'node:assert'
import type { TokenMask } from '../engine/logit-row.ts'
import type { TokenConstraint } from '../engine/sampler.ts'
import { Automaton, type Place } from './automaton.ts'
import type { Grammar } from './grammar.ts'
import type { BytesOfToken } from '../text/tokenizer.ts'
import { Vocabulary } from './vocabulary.ts'

/** Grammars kept ready for the requests that come with them again. */
const automataMax = 16

/** Holds answers to grammars: the engine's side of constrained output, one for each model. */
export class Constraints {
  readonly #vocabulary: Vocabulary
  readonly #bytes = new Map<number, Uint8Array>()
  /** By key, the one used last at the end. */
  readonly #automata = new Map<string, Automaton>()

  /** `tokens`: those an answer may hold; `size`: of a row of logits. */
  constructor(tokens: readonly BytesOfToken[], options: { size: number; endToken: number }) {
    this.#vocabulary = new Vocabulary(tokens, options)
    for (const { id, bytes } of tokens) this.#bytes.set(id, bytes)
  }

  /** For one answer of at most `tokensMax` tokens, its end token counted. */
  create(grammar: Grammar, tokensMax: number): TokenConstraint {
    return new GrammarConstraint(this.#automaton(grammar), tokensMax, (token) =>
      token === this.#vocabulary.endToken ? null : (this.#bytes.get(token) ?? null),
    )
  }

  #automaton(grammar: Grammar): Automaton {
    const known = this.#automata.get(grammar.key)
    const automaton = known ?? new Automaton(grammar, this.#vocabulary)
    this.#automata.delete(grammar.key)
    this.#automata.set(grammar.key, automaton)
    const [oldest] = this.#automata.keys()
    if (this.#automata.size > automataMax && oldest !== undefined) this.#automata.delete(oldest)
    return automaton
  }
}

class GrammarConstraint implements TokenConstraint {
  readonly #automaton: Automaton
  readonly #bytesOf: (token: number) => Uint8Array | null
  #place: Place
  #tokensLeft: number

  constructor(
    automaton: Automaton,
    tokensMax: number,
    bytesOf: (token: number) => Uint8Array | null,
  ) {
    this.#automaton = automaton
    this.#bytesOf = bytesOf
    this.#place = automaton.start()
    this.#tokensLeft = tokensMax
  }

  mask(): TokenMask {
    return this.#automaton.allowed(this.#place, this.#tokensLeft)
  }

  accept(token: number): void {
    this.#tokensLeft -= 1
    const bytes = this.#bytesOf(token)
    if (bytes !== null) this.#place = this.#automaton.advance(this.#place, bytes)
    else assert(this.#place.complete, 'an answer ends where it may')
  }
}
