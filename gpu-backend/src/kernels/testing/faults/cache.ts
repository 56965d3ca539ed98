import type { Tensor } from '../../../device/tensor.ts'
import { pageTokens, rowFieldCount } from '../../batch.ts'
import type { OpTable } from '../../registry.ts'
import { plant, type Fault, type FaultTools } from './faulty-device.ts'
import { halvesSwapped, lastExtent, nibblesSwapped, rolled } from './tensors.ts'

// Mistakes in ops that read and write what earlier steps left.

/** Field `index` of every row: 0 position, 1 slot, 2 start, 3 end. */
function withField(
  tools: FaultTools,
  rows: Tensor,
  index: number,
  edit: (value: number) => number,
): Tensor {
  return tools.copy(rows, (fields) =>
    fields.map((field, i) => (i % rowFieldCount === index ? edit(field) : field)),
  )
}

/** Every sequence's pages one further: each entry is looked for in a page that holds another. */
function stalePages(tools: FaultTools, pages: Tensor): Tensor {
  const width = lastExtent(pages)
  return tools.copy(pages, (table) => {
    const mapped = [...table].filter((page) => page >= 0)
    const next = (page: number): number =>
      mapped[(mapped.indexOf(page) + 1) % mapped.length] ?? page
    // A sequence with one page gets another's; its own are only exchanged among themselves.
    return table.map((page, i) => (page < 0 ? page : i % width === 0 ? next(page) : page))
  })
}

type CompressArgs = OpTable['compress']

const compressions: readonly Fault[] = [
  plant('compress', 'exchanges the halves of overlapping blocks', (tools, args) => {
    if (args.span === 1) return tools.run('compress', args)
    const swap = (values: Float64Array): Float64Array =>
      halvesSwapped(values, lastExtent(args.entries))
    const rings = [args.valueRing, args.scoreRing]
    for (const ring of rings) tools.change(ring, swap)
    const [values, scores, ape] = [args.values, args.scores, args.ape].map((t) =>
      tools.copy(t, swap),
    )
    tools.run('compress', {
      ...args,
      values: values ?? args.values,
      scores: scores ?? args.scores,
      ape: ape ?? args.ape,
    })
    for (const ring of rings) tools.change(ring, swap)
  }),
  plant('compress', "is one off in the position's bias", (tools, args) => {
    const ape = tools.copy(args.ape, (values) => rolled(values, lastExtent(args.ape)))
    tools.run('compress', { ...args, ape })
  }),
  plant('compress', "forgets the position's bias", (tools, args) => {
    tools.run('compress', { ...args, ape: tools.copy(args.ape, (values) => values.fill(0)) })
  }),
  plant('compress', 'writes the rings before it reads them', (tools, args) => {
    const entries = tools.bytes(args.entries)
    tools.run('compress', args)
    tools.putBytes(args.entries, entries)
    tools.run('compress', args)
  }),
  plant('compress', 'does not keep the rows', (tools, args) => {
    const [values, scores] = [tools.bytes(args.valueRing), tools.bytes(args.scoreRing)]
    tools.run('compress', args)
    tools.putBytes(args.valueRing, values)
    tools.putBytes(args.scoreRing, scores)
  }),
  plant('compress', 'reads the ring of another slot', (tools, args) => {
    const [slots = 1] = args.valueRing.shape
    const moved = (ring: Tensor): Tensor =>
      tools.copy(ring, (values) => rolled(values, values.length / slots))
    const other = { valueRing: moved(args.valueRing), scoreRing: moved(args.scoreRing) }
    tools.run('compress', { ...args, ...other })
    const entries = tools.bytes(args.entries)
    tools.run('compress', args)
    tools.putBytes(args.entries, entries)
  }),
  plant('compress', 'stores into a stale page', (tools, args) => {
    tools.run('compress', { ...args, pages: stalePages(tools, args.pages) })
  }),
  plant('compress', 'rotates by the position behind the block', (tools, args) => {
    rotatedFurther(tools, args)
  }),
  plant('compress', 'rotates the wrong way', (tools, args) => {
    const frequencies = tools.copy(args.frequencies, (values) => values.map((f) => -f))
    tools.run('compress', { ...args, frequencies })
  }),
  plant('compress', 'does not round', (tools, args) => {
    tools.run('compress', { ...args, quantise: false })
  }),
  plant('compress', 'rounds though not asked to', (tools, args) => {
    tools.run('compress', { ...args, quantise: true })
  }),
  plant('compress', 'treats the index as keys', (tools, args) => {
    const plain = lastExtent(args.entries) - 2 * lastExtent(args.frequencies)
    const possible = args.use === 'index' && plain % 64 === 0
    tools.run('compress', possible ? { ...args, use: 'keys' } : args)
  }),
  plant('compress', 'misses a block that the last row completes', (tools, args) => {
    const entries = tools.bytes(args.entries)
    tools.run('compress', args)
    const fields = tools.values(args.rows)
    const last = fields[fields.length - rowFieldCount] ?? 0
    if ((last + 1) % args.ratio === 0) tools.putBytes(args.entries, entries)
  }),
]

const compactRows: readonly Fault[] = [
  plant('compress', 'writes the scales of compact rows backwards', (tools, args) => {
    tools.run('compress', args)
    const { entries, use, norm } = args
    if (entries.dtype !== 'u8' || use !== 'index') return
    const [row, codes] = [lastExtent(entries), lastExtent(norm) / 2]
    tools.change(entries, (bytes) => {
      for (let at = 0; at < bytes.length; at += row) bytes.subarray(at + codes, at + row).reverse()
      return bytes
    })
  }),
  plant('index-select', 'reads compact rows high nibble first', (tools, args) => {
    const { entries, queries } = args
    if (entries.dtype !== 'u8') return tools.run('index-select', args)
    const [row, codes] = [lastExtent(entries), lastExtent(queries) / 2]
    const swapped = tools.copyBytes(entries, (bytes) => {
      const other = nibblesSwapped(bytes)
      return bytes.map((byte, i) => (i % row < codes ? (other[i] ?? 0) : byte))
    })
    tools.run('index-select', { ...args, entries: swapped })
  }),
  plant('attention', 'cuts the rotated part of compact rows off', (tools, args) => {
    if (args.window.dtype !== 'u8') return tools.run('attention', args)
    const cut = tools.copy(
      args.keys,
      (values) =>
        new Float32Array(Uint32Array.from(bitsOf(values), (bits) => bits & 0xffff_0000).buffer),
    )
    tools.run('attention', { ...args, keys: cut })
  }),
]

function bitsOf(values: Float64Array): Uint32Array {
  return new Uint32Array(Float32Array.from(values).buffer)
}

/** Blocks whose first token is taken to lie one block later. */
function rotatedFurther(tools: FaultTools, args: CompressArgs): void {
  if (args.use === 'index' || args.quantise) return tools.run('compress', args)
  tools.run('compress', args)
  const width = lastExtent(args.entries)
  const frequencies = tools.values(args.frequencies)
  const plain = width - 2 * frequencies.length
  tools.change(args.entries, (values) => {
    for (let at = 0; at < values.length; at += width) {
      for (const [i, frequency] of frequencies.entries()) {
        const [re, im] = [at + plain + 2 * i, at + plain + 2 * i + 1]
        const [a, b] = [values[re] ?? 0, values[im] ?? 0]
        const angle = frequency * args.ratio
        values[re] = a * Math.cos(angle) - b * Math.sin(angle)
        values[im] = a * Math.sin(angle) + b * Math.cos(angle)
      }
    }
    return values
  })
}

type SelectArgs = OpTable['index-select']

/** The selection with one rule changed. */
function selectedWrongly(
  tools: FaultTools,
  args: SelectArgs,
  rules: {
    readonly rectify: boolean
    readonly tie: 'low' | 'high'
    readonly weight: (w: number) => number
  },
): void {
  const [rows = 0, heads = 0, head = 0] = args.queries.shape
  const topK = lastExtent(args.selected)
  const [fields, pages, entries, queries, weights] = [
    args.rows,
    args.pages,
    args.entries,
    args.queries,
    args.weights,
  ].map((part) => tools.values(part))
  const perPage = pageTokens / args.ratio
  const width = lastExtent(args.pages)
  const selected = Array.from({ length: rows }, (_, row) => {
    const [position = 0, slot = 0] = fields?.subarray(row * rowFieldCount) ?? []
    const visible = Math.floor((position + 1) / args.ratio)
    const scores = Array.from({ length: visible }, (_unused, j) => {
      const page = pages?.[slot * width + Math.floor(j / perPage)] ?? 0
      const key = (page * perPage + (j % perPage)) * head
      let score = 0
      for (let h = 0; h < heads; h++) {
        let match = 0
        for (let i = 0; i < head; i++) {
          match += (queries?.[(row * heads + h) * head + i] ?? 0) * (entries?.[key + i] ?? 0)
        }
        const weight = rules.weight(weights?.[row * heads + h] ?? 0)
        score += weight * (rules.rectify ? Math.max(0, match) : match)
      }
      return score
    })
    const tie = (a: number, b: number): number => (rules.tie === 'low' ? a - b : b - a)
    const order = scores
      .map((_score, j) => j)
      .toSorted((a, b) => (scores[b] ?? 0) - (scores[a] ?? 0) || tie(a, b))
    const picks = order.slice(0, topK).toSorted((a, b) => a - b)
    return Array.from({ length: topK }, (_unused, i) => picks[i] ?? -1)
  })
  tools.put(args.selected, selected.flat())
}

const right = { rectify: true, tie: 'low', weight: (w: number): number => w } as const

const selections: readonly Fault[] = [
  plant('index-select', 'does not rectify', (tools, args) => {
    selectedWrongly(tools, args, { ...right, rectify: false })
  }),
  plant('index-select', 'gives ties to the higher entry', (tools, args) => {
    selectedWrongly(tools, args, { ...right, tie: 'high' })
  }),
  plant('index-select', 'drops negative weights', (tools, args) => {
    selectedWrongly(tools, args, { ...right, weight: (w) => Math.max(0, w) })
  }),
  plant('index-select', 'gives every head one weight', (tools, args) => {
    selectedWrongly(tools, args, { ...right, weight: () => 1 })
  }),
  plant('index-select', 'misses the newest entry', (tools, args) => {
    const rows = withField(tools, args.rows, 0, (position) => Math.max(0, position - args.ratio))
    tools.run('index-select', { ...args, rows })
  }),
  plant('index-select', "is one off in an entry's number", (tools, args) => {
    tools.run('index-select', args)
    tools.change(args.selected, (picks) => picks.map((pick) => (pick < 0 ? pick : pick + 1)))
  }),
  plant('index-select', 'gives picks in falling order', (tools, args) => {
    tools.run('index-select', args)
    const topK = lastExtent(args.selected)
    tools.change(args.selected, (picks) => {
      for (let at = 0; at < picks.length; at += topK) {
        picks.subarray(at, at + topK).sort((a, b) => b - a)
      }
      return picks
    })
  }),
  plant('index-select', 'fills up with zeros', (tools, args) => {
    tools.run('index-select', args)
    tools.change(args.selected, (picks) => picks.map((pick) => Math.max(0, pick)))
  }),
  plant('index-select', 'reads a stale page', (tools, args) => {
    tools.run('index-select', { ...args, pages: stalePages(tools, args.pages) })
  }),
]

type AttentionArgs = OpTable['attention']

/** The same op with lists of entries of one's own; `edit` also gets the position its segment ends before. */
function withEntries(
  tools: FaultTools,
  args: AttentionArgs,
  edit: (picks: readonly number[], end: number) => readonly number[],
): AttentionArgs {
  const { compressed } = args
  if (compressed === null) return args
  const fields = tools.values(args.rows)
  const rows = fields.length / rowFieldCount
  const given = compressed.selected === null ? null : tools.values(compressed.selected)
  const picks = Array.from({ length: rows }, (_, row) => {
    const position = fields[row * rowFieldCount] ?? 0
    const visible = Math.floor((position + 1) / compressed.ratio)
    const own = given?.subarray((row * given.length) / rows, ((row + 1) * given.length) / rows)
    const list = own
      ? [...own].filter((pick) => pick >= 0)
      : Array.from({ length: visible }, (_u, i) => i)
    return edit(list, fields[row * rowFieldCount + 3] ?? 0)
  })
  const width = Math.max(1, ...picks.map((list) => list.length))
  const padded = picks.flatMap((list) => Array.from({ length: width }, (_, i) => list[i] ?? -1))
  const selected = { ...tools.copy(args.rows, () => padded), shape: [rows, width] }
  return { ...args, compressed: { ...compressed, selected } }
}

const attentions: readonly Fault[] = [
  plant('attention', 'forgets the sink', (tools, args) => {
    tools.run('attention', { ...args, sink: tools.copy(args.sink, (s) => s.fill(-1e30)) })
  }),
  plant('attention', 'scales the sink', (tools, args) => {
    const sink = tools.copy(args.sink, (values) => values.map((value) => value * args.scale))
    tools.run('attention', { ...args, sink })
  }),
  plant('attention', 'sees one key too many', (tools, args) => {
    tools.run('attention', { ...args, windowSize: args.windowSize + 1 })
  }),
  plant('attention', 'sees one key too few', (tools, args) => {
    tools.run('attention', { ...args, windowSize: args.windowSize - 1 })
  }),
  plant('attention', 'sees the key behind the row', (tools, args) => {
    const keys = tools.copy(args.keys, (values) =>
      rolled(values, lastExtent(args.keys), (args.keys.shape[0] ?? 1) - 1),
    )
    const window = tools.bytes(args.window)
    tools.run('attention', { ...args, keys })
    const output = tools.bytes(args.output)
    tools.putBytes(args.window, window)
    tools.run('attention', args)
    tools.putBytes(args.output, output)
  }),
  plant('attention', 'sees an entry that is not complete', (tools, args) => {
    if (args.compressed?.selected !== null) return tools.run('attention', args)
    const { ratio } = args.compressed
    // Later rows of the same chunk see it, so it is there.
    const oneMore = (picks: readonly number[], end: number): readonly number[] =>
      picks.length < Math.floor(end / ratio) ? [...picks, picks.length] : picks
    tools.run('attention', withEntries(tools, args, oneMore))
  }),
  plant('attention', 'misses the newest entry', (tools, args) => {
    tools.run(
      'attention',
      withEntries(tools, args, (picks) => picks.slice(0, -1)),
    )
  }),
  plant('attention', 'reads a stale page', (tools, args) => {
    tools.run('attention', { ...args, pages: stalePages(tools, args.pages) })
  }),
  plant('attention', "attends to all heads with the first one's queries", (tools, args) => {
    const [, heads = 1, head = 1] = args.queries.shape
    const queries = tools.copy(args.queries, (values) =>
      values.map((_, i) => values[i - (i % (heads * head)) + (i % head)] ?? 0),
    )
    tools.run('attention', { ...args, queries })
  }),
  plant('attention', 'does not turn the output back', (tools, args) => {
    const frequencies = tools.copy(args.frequencies, (values) => values.fill(0))
    tools.run('attention', { ...args, frequencies })
  }),
  plant('attention', 'turns the output the wrong way', (tools, args) => {
    const frequencies = tools.copy(args.frequencies, (values) => values.map((f) => -f))
    tools.run('attention', { ...args, frequencies })
  }),
  plant('attention', 'does not scale', (tools, args) => {
    tools.run('attention', { ...args, scale: 1 })
  }),
  plant('attention', 'writes the window before it reads it', (tools, args) => {
    tools.run('attention', args)
    tools.run('attention', args)
  }),
  plant('attention', 'does not keep the keys', (tools, args) => {
    const window = tools.bytes(args.window)
    tools.run('attention', args)
    tools.putBytes(args.window, window)
  }),
  plant('attention', "keeps a long chunk's first keys", (tools, args) => {
    const [rows = 0] = args.rows.shape
    const [, ring = 1] = args.window.shape
    const fields = tools.values(args.rows)
    tools.run('attention', args)
    const long = Array.from({ length: rows }, (_, row) =>
      fields.subarray(row * rowFieldCount),
    ).filter(([position = 0, , start = 0, end = 0]) => position < start + 1 && end - start > ring)
    if (long.length === 0) return
    tools.change(args.window, (values) => rolled(values, lastExtent(args.window)))
  }),
  plant('attention', 'uses the window of another slot', (tools, args) => {
    const [slots = 1] = args.window.shape
    const before = tools.bytes(args.window)
    tools.change(args.window, (values) => rolled(values, values.length / slots))
    tools.run('attention', args)
    const output = tools.bytes(args.output)
    tools.putBytes(args.window, before)
    tools.run('attention', args)
    tools.putBytes(args.output, output)
  }),
]

export const cacheFaults: readonly Fault[] = [
  ...compressions,
  ...compactRows,
  ...selections,
  ...attentions,
]
