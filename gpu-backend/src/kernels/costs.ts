import {
  elementCount,
  type LinearWeight,
  rowCount,
  type Tensor,
  tensorBytes,
} from '../device/tensor.ts'
import { type BatchRow, visibleEntries } from './batch.ts'
import type { ExpertWeights } from './experts/experts.ts'
import type { StreamUpdate } from './numerics/streams.ts'
import type { OpName, OpTable } from './registry.ts'

/**
 * What an op cannot do without. `flops`: two for each product that is added up, one for each plain
 * addition of a transform; work element by element is not counted. `bytes`: each operand once,
 * twice where it is changed in place, and of tables and caches the rows that are touched.
 */
export interface Cost {
  readonly flops: number
  readonly bytes: number
}

/** What costs depend on that arguments only point to. */
export interface CostFacts {
  /** The step's rows, as `Batch.rows` has them; read by ops that take it. */
  readonly rows: readonly BatchRow[]
  /** How many experts some row picked; absent: as many different ones as there can be. */
  readonly expertsPicked?: number
}

export function opCost<Op extends OpName>(op: Op, args: OpTable[Op], facts: CostFacts): Cost {
  return costs[op](args, facts)
}

const costs: { readonly [Op in OpName]: (args: OpTable[Op], facts: CostFacts) => Cost } = {
  copy: ({ from, to }) => ({ flops: 0, bytes: bytesOf(from, to) }),
  embed: ({ tokens, table, streams }) => {
    return { flops: 0, bytes: bytesOf(tokens, streams) + rowCount(tokens) * bytesOfRow(table) }
  },
  'hc-pre': hcPreCost,
  'hc-post': ({ streams, update }) => updateCost(streams, update),
  'hc-head': hcHeadCost,
  linear: ({ input, parts }) => {
    const products = parts.map(({ weight, output }) => product(rowCount(input), weight, output))
    return sum({ flops: 0, bytes: bytesOf(input) }, ...products)
  },
  'grouped-linear': ({ input, weight, output }) => {
    return sum({ flops: 0, bytes: bytesOf(input) }, product(rowCount(input), weight, output))
  },
  'latent-norm': ({ queryLatent, queryNorm, keys, keyNorm, frequencies, rows }) => {
    const once = bytesOf(queryNorm, keyNorm, frequencies, rows)
    return { flops: 0, bytes: once + 2 * bytesOf(queryLatent, keys) }
  },
  'query-rotate': ({ queries, frequencies, rows }) => {
    return { flops: 0, bytes: bytesOf(frequencies, rows) + 2 * bytesOf(queries) }
  },
  'index-query': ({ queries, frequencies, rows }) => {
    const stages = Math.log2(queries.shape[2] ?? 1)
    return {
      flops: elementCount(queries.shape) * stages,
      bytes: bytesOf(frequencies, rows) + 2 * bytesOf(queries),
    }
  },
  compress: compressCost,
  'index-select': indexSelectCost,
  attention: attentionCost,
  route: routeCost,
  experts: expertsCost,
  'expert-sum': ({ experts, results, output }) => {
    // Of all devices' results each own row reads one a place.
    const each = elementCount(experts.shape) * bytesOfRow(inner(results[0] ?? output))
    return { flops: 0, bytes: bytesOf(experts) + each + 2 * bytesOf(output) }
  },
  'draft-inputs': ({ tokens, table, picks, embeddingNorm, streamNorm, embedding, streams }) => {
    const gathered = rowCount(tokens) * bytesOfRow(table) + bytesOf(streams)
    const once = bytesOf(tokens, picks, embeddingNorm, streamNorm, embedding, streams)
    return { flops: 0, bytes: gathered + once }
  },
  'draft-join': ({ embedding, streams }) => {
    return { flops: 0, bytes: bytesOf(embedding) + 2 * bytesOf(streams) }
  },
  gather: ({ parts }) => {
    return { flops: 0, bytes: parts.reduce((sum, { from, to }) => sum + bytesOf(from, to), 0) }
  },
}

/** S + 1 products for each element of the streams. */
function updateCost(streams: Tensor, { output, post, mix }: StreamUpdate): Cost {
  const terms = (streams.shape[1] ?? 0) + 1
  return {
    flops: 2 * terms * elementCount(streams.shape),
    bytes: 2 * bytesOf(streams) + bytesOf(output, post, mix),
  }
}

/** Streams are read once, whether or not an update changes them on the way. */
function hcPreCost(args: OpTable['hc-pre']): Cost {
  const { streams, pending, fn, scale, base, norm, normed, post, mix } = args
  const entered = pending === null ? reading(streams) : updateCost(streams, pending)
  const elements = elementCount(streams.shape)
  return sum(entered, {
    flops: 2 * elements * rowCount(fn) + 2 * elements,
    bytes: bytesOf(fn, scale, base, norm, normed, post, mix),
  })
}

function hcHeadCost(args: OpTable['hc-head']): Cost {
  const { streams, pending, picks, fn, scale, base, norm, output } = args
  const [, count = 0, hidden = 0] = streams.shape
  const elements = rowCount(picks) * count * hidden
  const rows = rowCount(picks) * bytesOfRow(streams)
  const entered = pending === null ? { flops: 0, bytes: rows } : updateCost(streams, pending)
  return sum(entered, {
    flops: 2 * elements * rowCount(fn) + 2 * elements,
    bytes: bytesOf(picks, fn, scale, base, norm, output),
  })
}

/** One row of weighted sums for each row a block pools; older rows come from the rings. */
function compressCost(args: OpTable['compress'], { rows }: CostFacts): Cost {
  const { values, scores, ape, norm, frequencies, valueRing, entries, ratio, span } = args
  const width = rowCount(norm)
  const ringRow = 2 * bytesOfRow(inner(valueRing))
  const completing = rows.filter(({ position }) => (position + 1) % ratio === 0)
  const oldest = ({ position }: BatchRow): number => Math.max(0, position + 1 - span * ratio)
  const pooled = completing.reduce((total, row) => total + row.position + 1 - oldest(row), 0)
  const fromRing = segmentsOf(completing).reduce((total, { first }) => {
    return total + Math.max(0, first.start - oldest(first))
  }, 0)
  const ring = valueRing.shape[1] ?? 0
  const kept = rows.filter(({ position, end }) => position + ring >= end).length
  const cached = (fromRing + kept) * ringRow + completing.length * bytesOfRow(inner(entries))
  return {
    flops: 2 * pooled * width,
    bytes: bytesOf(values, scores, ape, norm, frequencies, args.rows) + cached,
  }
}

/** Nothing is scored for a row that sees no more entries than it may pick. */
function indexSelectCost(args: OpTable['index-select'], { rows }: CostFacts): Cost {
  const { queries, weights, entries, ratio, selected } = args
  const [, heads = 0, head = 0] = queries.shape
  const topK = selected.shape[1] ?? 0
  const scored = ({ position }: BatchRow): number => {
    const visible = visibleEntries(position, ratio)
    return visible > topK ? visible : 0
  }
  const all = rows.reduce((total, row) => total + scored(row), 0)
  const read = segmentsOf(rows).reduce((total, { last }) => total + scored(last), 0)
  const keys = read * bytesOfRow(inner(entries))
  return {
    flops: 2 * all * heads * (head + 1),
    bytes: bytesOf(queries, weights, args.rows, selected) + keys,
  }
}

/** Each key meets each head twice, as key and as value; a segment's rows share what they read. */
function attentionCost(args: OpTable['attention'], { rows }: CostFacts): Cost {
  const { queries, keys, window, windowSize, compressed, sink, frequencies, output } = args
  const [, heads = 0, head = 0] = queries.shape
  const topK = compressed?.selected?.shape[1] ?? Infinity
  const entriesOf = ({ position }: BatchRow): number =>
    compressed === null ? 0 : Math.min(topK, visibleEntries(position, compressed.ratio))
  let met = 0
  for (const row of rows) met += Math.min(windowSize, row.position + 1) + entriesOf(row)
  let [fromRing, entriesRead] = [0, 0]
  for (const { first, last, count } of segmentsOf(rows)) {
    fromRing += Math.min(windowSize - 1, first.position)
    const visible = compressed === null ? 0 : visibleEntries(last.position, compressed.ratio)
    entriesRead += Math.min(visible, count * topK)
  }
  const ring = window.shape[1] ?? 0
  const kept = rows.filter(({ position, end }) => position + ring >= end).length
  const windowRow = bytesOfRow(inner(window))
  const cached =
    (fromRing + kept) * windowRow +
    (compressed === null ? 0 : entriesRead * bytesOfRow(inner(compressed.entries)))
  const selection = compressed?.selected ?? null
  return {
    flops: 4 * heads * head * met,
    bytes:
      bytesOf(queries, keys, sink, frequencies, args.rows, output) +
      (selection === null ? 0 : bytesOf(selection)) +
      cached,
  }
}

/** A table's experts are known beforehand: only theirs are scored. */
function routeCost(args: OpTable['route']): Cost {
  const { input, tokens, gate, choice, experts, weights } = args
  const [rows = 0, picked = 0] = experts.shape
  const [count = 0, hidden = 0] = gate.shape
  const scored = choice.by === 'score' ? count : picked
  const gateRows = choice.by === 'score' ? count : Math.min(count, rows * picked)
  const chosen = choice.by === 'score' ? bytesOf(choice.bias) : rows * bytesOfRow(choice.table)
  return {
    flops: 2 * rows * scored * hidden,
    bytes: bytesOf(input, tokens, experts, weights) + gateRows * bytesOfRow(gate) + chosen,
  }
}

function expertsCost(args: OpTable['experts'], { expertsPicked }: CostFacts): Cost {
  const { input, experts, weights, routed, shared, output, part } = args
  const [rows = 0, picked = 0] = experts.shape
  const count = rowCount(routed.gate.weight)
  const touched = expertsPicked ?? Math.min(count, rows * picked)
  return {
    // Of a part as if no other device had an expert that was picked.
    flops:
      2 * (rows * picked * (elementsOf(routed) / count) + rowCount(output) * elementsOf(shared)),
    bytes:
      bytesOf(input, experts, weights, output, ...(part === undefined ? [] : [part.results])) +
      (touched * expertBytes(routed)) / count +
      expertBytes(shared),
  }
}

function elementsOf({ gate, up, down }: ExpertWeights): number {
  return [gate, up, down].reduce((total, { weight }) => total + elementCount(weight.shape), 0)
}

function expertBytes({ gate, up, down }: ExpertWeights): number {
  return weightBytes(gate) + weightBytes(up) + weightBytes(down)
}

/** The weight and the output; the input is its caller's. */
function product(rows: number, weight: LinearWeight, output: Tensor): Cost {
  return {
    flops: 2 * rows * elementCount(weight.weight.shape),
    bytes: weightBytes(weight) + bytesOf(output),
  }
}

function weightBytes({ weight, scale }: LinearWeight): number {
  return bytesOf(weight) + (scale === null ? 0 : bytesOf(scale))
}

interface SegmentSpan {
  readonly first: BatchRow
  readonly last: BatchRow
  readonly count: number
}

/** Rows of one slot; a step has at most one segment of each. */
function segmentsOf(rows: readonly BatchRow[]): readonly SegmentSpan[] {
  const bySlot = new Map<number, SegmentSpan>()
  for (const row of rows) {
    const before = bySlot.get(row.slot)
    const first = before?.first ?? row
    bySlot.set(row.slot, { first, last: row, count: (before?.count ?? 0) + 1 })
  }
  return [...bySlot.values()]
}

function reading(tensor: Tensor): Cost {
  return { flops: 0, bytes: bytesOf(tensor) }
}

function bytesOf(...tensors: readonly Tensor[]): number {
  return tensors.reduce((total, tensor) => total + tensorBytes(tensor), 0)
}

/** Bytes of one row of the first extent. */
function bytesOfRow(tensor: Tensor): number {
  return tensorBytes({ ...tensor, shape: [1, ...tensor.shape.slice(1)] })
}

/** `[pages, entries a page, width]` and `[slots, ring, width]` by entry and by ring row. */
function inner(tensor: Tensor): Tensor {
  return { ...tensor, shape: tensor.shape.slice(1) }
}

function sum(...parts: readonly Cost[]): Cost {
  return {
    flops: parts.reduce((total, { flops }) => total + flops, 0),
    bytes: parts.reduce((total, { bytes }) => total + bytes, 0),
  }
}
