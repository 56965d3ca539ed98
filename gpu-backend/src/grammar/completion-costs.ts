import type { Grammar } from './grammar.ts'
import type { Vocabulary } from './vocabulary.ts'

/** Far more than an answer may have, and exact in the numbers that queues sort by. */
const costMax = 2 ** 24

/**
 * For every state, how many tokens it takes at most to come to the end of its part: a bound that
 * one more token can always lower by one. Every byte is a token, so a byte's edge costs one; along
 * a stretch that leaves no choice, a token of the vocabulary that fits into it does. Infinity where no
 * end can be reached.
 *
 * Without a vocabulary the bound counts bytes, and is exact.
 *
 * What takes more than `costMax` is taken for endless: a schema whose references double at every step
 * can ask for values that no memory holds.
 *
 * Cheapest states first, each settled once (Knuth, 1977, for grammars what Dijkstra's algorithm is
 * for graphs): the time hardly depends on how a schema winds its references.
 */
export function completionCosts(grammar: Grammar, vocabulary: Vocabulary | null): Float64Array {
  const steps = new Steps()
  addEdges(steps, grammar)
  if (vocabulary !== null) addTokenJumps(steps, grammar, vocabulary)
  const stateCount = grammar.ends.length
  const users = steps.users(stateCount)
  const costs = new Float64Array(stateCount).fill(Infinity)
  const queue = new Queue(stateCount)
  const settled = new Uint8Array(stateCount)
  grammar.ends.forEach((ends, state) => {
    if (ends === 1) queue.push(0, state)
  })
  for (let next = queue.pop(); next !== null; next = queue.pop()) {
    const [cost, state] = next
    if (settled[state] === 1) continue
    settled[state] = 1
    costs[state] = cost
    for (let at = users.from[state] ?? 0; at < (users.from[state + 1] ?? 0); at++) {
      const step = users.steps[at] ?? 0
      const through = steps.cost(step, costs)
      if (through <= costMax) queue.push(through, steps.from[step] ?? 0)
    }
  }
  return costs
}

/** Whether what begins at the state can come to an end. */
export function hasEnd(grammar: Grammar, state: number): boolean {
  return Number.isFinite(completionCosts(grammar, null)[state])
}

/** Ways from a state to the end: `price`, and then the ways of one state, or of two in turn. */
class Steps {
  readonly from: number[] = []
  readonly #price: number[] = []
  readonly #first: number[] = []
  /** −1: none. */
  readonly #second: number[] = []

  add(from: number, price: number, first: number, second: number): void {
    this.from.push(from)
    this.#price.push(price)
    this.#first.push(first)
    this.#second.push(second)
  }

  cost(step: number, costs: Float64Array): number {
    const second = this.#second[step] ?? -1
    const rest = second < 0 ? 0 : (costs[second] ?? Infinity)
    return (this.#price[step] ?? 0) + (costs[this.#first[step] ?? 0] ?? Infinity) + rest
  }

  /** The steps that lead through each state. */
  users(stateCount: number): { readonly from: Int32Array; readonly steps: Int32Array } {
    const from = new Int32Array(stateCount + 1)
    const targets = [this.#first, this.#second]
    for (const list of targets) {
      for (const state of list) if (state >= 0) from[state + 1] = (from[state + 1] ?? 0) + 1
    }
    for (let state = 0; state < stateCount; state++) {
      from[state + 1] = (from[state + 1] ?? 0) + (from[state] ?? 0)
    }
    const place = from.slice()
    const steps = new Int32Array(from[stateCount] ?? 0)
    for (const list of targets) {
      for (const [step, state] of list.entries()) {
        if (state < 0) continue
        steps[place[state] ?? 0] = step
        place[state] = (place[state] ?? 0) + 1
      }
    }
    return { from, steps }
  }
}

/** A binary heap of costs and states, the cheapest on top. */
class Queue {
  readonly #stateCount: number
  /** cost · states + state: one number to compare. */
  readonly #heap: number[] = []

  constructor(stateCount: number) {
    this.#stateCount = stateCount
  }

  push(cost: number, state: number): void {
    const heap = this.#heap
    const value = cost * this.#stateCount + state
    let at = heap.length
    heap.push(value)
    while (at > 0) {
      const parent = (at - 1) >> 1
      if ((heap[parent] ?? 0) <= value) break
      heap[at] = heap[parent] ?? 0
      at = parent
    }
    heap[at] = value
  }

  pop(): readonly [cost: number, state: number] | null {
    const heap = this.#heap
    const top = heap[0]
    const last = heap.pop()
    if (top === undefined || last === undefined) return null
    if (heap.length > 0) this.#sink(last)
    return [Math.floor(top / this.#stateCount), top % this.#stateCount]
  }

  #sink(value: number): void {
    const heap = this.#heap
    let at = 0
    for (;;) {
      const left = 2 * at + 1
      if (left >= heap.length) break
      const child = (heap[left + 1] ?? Infinity) < (heap[left] ?? 0) ? left + 1 : left
      if (value <= (heap[child] ?? 0)) break
      heap[at] = heap[child] ?? 0
      at = child
    }
    heap[at] = value
  }
}

function addEdges(steps: Steps, grammar: Grammar): void {
  const { byteFrom, byteTo, skipFrom, skipTo, callFrom, callEntry, callReturn, ends } = grammar
  for (let state = 0; state < ends.length; state++) {
    for (let edge = byteFrom[state] ?? 0; edge < (byteFrom[state + 1] ?? 0); edge++) {
      steps.add(state, 1, byteTo[edge] ?? 0, -1)
    }
    for (let edge = skipFrom[state] ?? 0; edge < (skipFrom[state + 1] ?? 0); edge++) {
      steps.add(state, 0, skipTo[edge] ?? 0, -1)
    }
    for (let edge = callFrom[state] ?? 0; edge < (callFrom[state + 1] ?? 0); edge++) {
      steps.add(state, 0, callEntry[edge] ?? 0, callReturn[edge] ?? 0)
    }
  }
}

/** The states that single tokens of more than one byte lead to, where only one byte fits each time. */
function addTokenJumps(steps: Steps, grammar: Grammar, vocabulary: Vocabulary): void {
  for (let state = 0; state < grammar.ends.length; state++) {
    let node = -1
    let at = state
    for (let edge = onlyByte(grammar, at); edge >= 0; edge = onlyByte(grammar, at)) {
      node = vocabulary.child(node, grammar.byteLow[edge] ?? 0)
      if (node < 0) break
      at = grammar.byteTo[edge] ?? 0
      if ((vocabulary.token[node] ?? -1) >= 0) steps.add(state, 1, at, -1)
    }
  }
}

/** The state's one edge, if it has no other and that takes one byte; −1 otherwise. */
function onlyByte(grammar: Grammar, state: number): number {
  const { byteFrom, byteLow, byteHigh, skipFrom, callFrom, ends } = grammar
  const edge = byteFrom[state] ?? 0
  const alone =
    ends[state] === 0 &&
    byteFrom[state + 1] === edge + 1 &&
    skipFrom[state] === skipFrom[state + 1] &&
    callFrom[state] === callFrom[state + 1]
  return alone && byteLow[edge] === byteHigh[edge] ? edge : -1
}
