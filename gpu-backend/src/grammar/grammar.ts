import { strict as assert } from 'node:assert'

/**
 * What an answer's bytes may be: a network of states in which an edge takes a byte, takes nothing, or
 * calls an entry state and goes on once that has reached an end. Plain data, made on the server's
 * thread and run on the engine's.
 *
 * Edges of state s are those from `…From[s]` up to `…From[s + 1]`.
 */
export interface Grammar {
  /** Grammars of one key are the same. */
  readonly key: string
  readonly start: number
  readonly byteFrom: Int32Array
  readonly byteLow: Uint8Array
  readonly byteHigh: Uint8Array
  readonly byteTo: Int32Array
  readonly skipFrom: Int32Array
  readonly skipTo: Int32Array
  readonly callFrom: Int32Array
  readonly callEntry: Int32Array
  readonly callReturn: Int32Array
  /** 1 where a called part, or the whole answer, may end. */
  readonly ends: Uint8Array
  /**
   * 1 for states in which text runs on: no edges but bytes, nearly all of which come back to such a
   * state. What may follow there is worked out once for all the places a text stands in.
   */
  readonly text: Uint8Array
}

/** A grammar would need more states than may be spent on one request. */
export class GrammarTooLarge extends Error {
  constructor(statesMax: number) {
    super(`needs more than ${statesMax} states`)
    this.name = 'GrammarTooLarge'
  }
}

/** About what 64 KB of names and enumerated values come to. */
export const grammarStatesMax = 1 << 16

interface ByteEdge {
  readonly low: number
  readonly high: number
  readonly to: number
}

interface CallEdge {
  readonly entry: number
  readonly to: number
}

interface State {
  readonly bytes: ByteEdge[]
  readonly skips: number[]
  readonly calls: CallEdge[]
  ends: boolean
  text: boolean
}

/** How a text automaton goes on from a state, named by any string, with a byte. */
export type TextStep = (state: string, byte: number) => string | typeof textEnd | null
export const textEnd = Symbol('the text has ended')

/** Builds a grammar state by state. Throws `GrammarTooLarge`. */
export class GrammarBuilder {
  readonly #states: State[] = []
  readonly #statesMax: number

  constructor(statesMax: number = grammarStatesMax) {
    this.#statesMax = statesMax
  }

  /** States made so far. */
  get size(): number {
    return this.#states.length
  }

  state(): number {
    if (this.#states.length >= this.#statesMax) throw new GrammarTooLarge(this.#statesMax)
    return this.#states.push({ bytes: [], skips: [], calls: [], ends: false, text: false }) - 1
  }

  bytes(from: number, low: number, high: number, to: number): void {
    this.#at(from).bytes.push({ low, high, to })
  }

  skip(from: number, to: number): void {
    this.#at(from).skips.push(to)
  }

  call(from: number, entry: number, to: number): void {
    this.#at(from).calls.push({ entry, to })
  }

  end(state: number): void {
    this.#at(state).ends = true
  }

  /** A chain of the text's bytes; returns the state behind it. */
  literal(from: number, text: string): number {
    let at = from
    for (const byte of new TextEncoder().encode(text)) {
      const next = this.state()
      this.bytes(at, byte, byte, next)
      at = next
    }
    return at
  }

  /** Any of the texts, by a tree of their bytes, so that a long list has one way to go. */
  anyLiteral(from: number, texts: Iterable<string>, to: number): void {
    const children = new Map<number, Map<number, number>>()
    for (const text of texts) {
      let at = from
      for (const byte of new TextEncoder().encode(text)) {
        const known = children.get(at) ?? new Map<number, number>()
        children.set(at, known)
        const next = known.get(byte) ?? this.state()
        if (!known.has(byte)) this.bytes(at, byte, byte, next)
        known.set(byte, next)
        at = next
      }
      this.skip(at, to)
    }
  }

  /**
   * The automaton whose states `step` names, from `initial` on; ends in `to`. `mayEnd`: so it may in
   * any of its states, the answer or the called part with it.
   */
  text(from: number, initial: string, step: TextStep, to: number, mayEnd = false): void {
    const states = new Map<string, number>()
    const pending: string[] = []
    const stateOf = (name: string): number => {
      const known = states.get(name)
      if (known !== undefined) return known
      const made = this.state()
      this.#at(made).text = true
      this.#at(made).ends = mayEnd
      states.set(name, made)
      pending.push(name)
      return made
    }
    this.skip(from, stateOf(initial))
    for (let name = pending.pop(); name !== undefined; name = pending.pop()) {
      this.#textEdges(stateOf(name), name, step, (next) => (next === textEnd ? to : stateOf(next)))
    }
  }

  /** One edge for each run of bytes that lead to the same state. */
  #textEdges(
    from: number,
    name: string,
    step: TextStep,
    stateOf: (next: string | typeof textEnd) => number,
  ): void {
    let low = 0
    let run = step(name, 0)
    for (let byte = 1; byte <= 256; byte++) {
      const next = byte < 256 ? step(name, byte) : undefined
      if (next === run) continue
      if (run !== null) this.bytes(from, low, byte - 1, stateOf(run))
      low = byte
      if (next !== undefined) run = next
    }
  }

  finish(start: number, key: (grammar: Omit<Grammar, 'key'>) => string): Grammar {
    const bytes = flatten(this.#states.map((state) => state.bytes))
    const skips = flatten(this.#states.map((state) => state.skips))
    const calls = flatten(this.#states.map((state) => state.calls))
    const grammar = {
      start,
      byteFrom: bytes.from,
      byteLow: Uint8Array.from(bytes.all, (edge) => edge.low),
      byteHigh: Uint8Array.from(bytes.all, (edge) => edge.high),
      byteTo: Int32Array.from(bytes.all, (edge) => edge.to),
      skipFrom: skips.from,
      skipTo: Int32Array.from(skips.all),
      callFrom: calls.from,
      callEntry: Int32Array.from(calls.all, (edge) => edge.entry),
      callReturn: Int32Array.from(calls.all, (edge) => edge.to),
      ends: Uint8Array.from(this.#states, (state) => (state.ends ? 1 : 0)),
      text: Uint8Array.from(this.#states, (state) => (state.text ? 1 : 0)),
    }
    return { ...grammar, key: key(grammar) }
  }

  #at(state: number): State {
    const found = this.#states[state]
    assert(found !== undefined, `state ${state} exists`)
    return found
  }
}

function flatten<Edge>(edges: readonly (readonly Edge[])[]): { from: Int32Array; all: Edge[] } {
  const from = new Int32Array(edges.length + 1)
  for (const [state, own] of edges.entries()) from[state + 1] = (from[state] ?? 0) + own.length
  return { from, all: edges.flat() }
}
