import type { Grammar } from '../grammar.ts'

interface Reading {
  readonly state: number
  /** Where calls under way go on, the innermost first. */
  readonly stack: readonly number[]
}

/**
 * Whether the text is an answer of the grammar: all readings tried at once, nothing remembered, no
 * vocabulary. What automata are held against.
 */
export function accepts(grammar: Grammar, text: string): boolean {
  const readings = readingsOf(grammar, new TextEncoder().encode(text))
  return readings.some(({ state, stack }) => stack.length === 0 && at(grammar.ends, state) === 1)
}

/** Whether the bytes may be the beginning of something. */
export function begins(grammar: Grammar, bytes: Iterable<number>): boolean {
  return readingsOf(grammar, bytes).length > 0
}

function readingsOf(grammar: Grammar, bytes: Iterable<number>): readonly Reading[] {
  let readings = closure(grammar, [{ state: grammar.start, stack: [] }])
  for (const byte of bytes) {
    readings = closure(
      grammar,
      readings.flatMap(({ state, stack }) =>
        edges(grammar.byteFrom, state)
          .filter((edge) => at(grammar.byteLow, edge) <= byte && byte <= at(grammar.byteHigh, edge))
          .map((edge) => ({ state: at(grammar.byteTo, edge), stack })),
      ),
    )
  }
  return readings
}

function closure(grammar: Grammar, from: readonly Reading[]): Reading[] {
  const found = new Map<string, Reading>()
  const pending = [...from]
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    const { state, stack } = next
    const key = [state, ...stack].join()
    if (found.has(key)) continue
    found.set(key, next)
    const [top, ...below] = stack
    if (top !== undefined && at(grammar.ends, state) === 1)
      pending.push({ state: top, stack: below })
    for (const edge of edges(grammar.skipFrom, state)) {
      pending.push({ state: at(grammar.skipTo, edge), stack })
    }
    for (const edge of edges(grammar.callFrom, state)) {
      const inside = [at(grammar.callReturn, edge), ...stack]
      pending.push({ state: at(grammar.callEntry, edge), stack: inside })
    }
  }
  return [...found.values()]
}

function edges(from: Int32Array, state: number): number[] {
  const first = at(from, state)
  return Array.from({ length: at(from, state + 1) - first }, (_, index) => first + index)
}

function at(values: Int32Array | Uint8Array, index: number): number {
  return values[index] ?? 0
}
