import type { Tensor } from '../../../device/tensor.ts'
import type { OpTable } from '../../registry.ts'
import { plant, plantFine, type Fault, type FaultTools } from './faulty-device.ts'
import { halvesSwapped, lastExtent, rolled, transposed } from './tensors.ts'

// Mistakes in ops whose rows have nothing to do with each other.

/** Frequencies of the other sign turn the other way. */
function backwards(tools: FaultTools, frequencies: Tensor): Tensor {
  return tools.copy(frequencies, (values) => values.map((f) => -f))
}

/** Every row one position later than it is. */
function nextPosition(tools: FaultTools, rows: Tensor): Tensor {
  return tools.copy(rows, (fields) => fields.map((field, i) => (i % 4 === 0 ? field + 1 : field)))
}

/** Element i beside i + n/2 instead of beside its neighbour: as other models rotate. */
function pairedAcross(values: Float64Array, head: number, pairs: number): Float64Array {
  return values.map((_, i) => {
    const [at, plain] = [i % head, head - 2 * pairs]
    if (at < plain) return values[i] ?? 0
    const within = at - plain
    const source = within % 2 === 0 ? within / 2 : pairs + (within - 1) / 2
    return values[i - within + source] ?? 0
  })
}

function withTransposedMix<T extends OpTable['hc-pre'] | OpTable['hc-head']>(
  tools: FaultTools,
  args: T,
): T {
  if (args.pending === null) return args
  const size = lastExtent(args.pending.mix)
  const mix = tools.copy(args.pending.mix, (values) => transposed(values, size))
  return { ...args, pending: { ...args.pending, mix } }
}

const copyAndEmbed: readonly Fault[] = [
  plant('copy', 'starts one element late', (tools, args) => {
    const moved = tools.copyBytes(args.from, (bytes) => Uint8Array.from([...bytes.subarray(1), 0]))
    tools.run('copy', { ...args, from: moved })
  }),
  plant('copy', 'turns NaN into one kind of NaN', (tools, args) => {
    tools.run('copy', args)
    if (args.to.dtype === 'f32') tools.change(args.to, (values) => values)
  }),
  plant('gather', 'leaves the last part out', (tools, { parts }) => {
    if (parts.length > 1) tools.run('gather', { parts: parts.slice(0, -1) })
  }),
  plant('gather', 'takes every part from the first', (tools, { parts }) => {
    const [first] = parts
    if (first === undefined) return
    tools.run('gather', {
      parts: parts.map((part) => {
        const same = part.from.shape.join() === first.from.shape.join()
        return same ? { ...part, from: first.from } : part
      }),
    })
  }),
  plant('embed', 'takes the next token', (tools, args) => {
    const [vocabulary = 1] = args.table.shape
    const tokens = tools.copy(args.tokens, (ids) => ids.map((id) => (id + 1) % vocabulary))
    tools.run('embed', { ...args, tokens })
  }),
  plant('embed', 'flushes subnormal values to zero', (tools, args) => {
    tools.run('embed', args)
    tools.change(args.streams, (x) => x.map((v) => (Math.abs(v) < 2 ** -126 ? 0 : v)))
  }),
  plant('embed', 'fills the first stream only', (tools, args) => {
    const [, count = 1, hidden = 1] = args.streams.shape
    const before = tools.values(args.streams)
    tools.run('embed', args)
    tools.change(args.streams, (values) =>
      values.map((v, i) => (Math.floor(i / hidden) % count === 0 ? v : (before[i] ?? 0))),
    )
  }),
]

const streams: readonly Fault[] = [
  plant('hc-post', 'applies C instead of its transpose', (tools, args) => {
    const size = lastExtent(args.update.mix)
    const mix = tools.copy(args.update.mix, (values) => transposed(values, size))
    tools.run('hc-post', { ...args, update: { ...args.update, mix } })
  }),
  plant('hc-post', 'takes y without its weights', (tools, args) => {
    const post = tools.copy(args.update.post, (values) => values.fill(1))
    tools.run('hc-post', { ...args, update: { ...args.update, post } })
  }),
  plant('hc-post', 'reads streams it has written already', (tools, args) => {
    tools.change(args.streams, (values) => updatedInPlace(tools, args, values))
  }),
  plant('hc-pre', 'gives C transposed', (tools, args) => {
    tools.run('hc-pre', args)
    tools.change(args.mix, (values) => transposed(values, lastExtent(args.mix)))
  }),
  plant('hc-pre', 'applies the pending C untransposed', (tools, args) => {
    tools.run('hc-pre', withTransposedMix(tools, args))
  }),
  plant('hc-pre', 'forgets the factor 2 of post', (tools, args) => {
    tools.run('hc-pre', args)
    tools.change(args.post, (values) => values.map((value) => value / 2))
  }),
  plant('hc-pre', 'stops after half of the iterations', (tools, args) => {
    const sinkhornIterations = Math.ceil(args.sinkhornIterations / 2)
    tools.run('hc-pre', { ...args, sinkhornIterations })
  }),
  plant('hc-pre', 'norms without the weight', (tools, args) => {
    tools.run('hc-pre', { ...args, norm: tools.copy(args.norm, (values) => values.fill(1)) })
  }),
  plant('hc-pre', 'mixes the streams as they were before the update', (tools, args) => {
    if (args.pending === null) return tools.run('hc-pre', args)
    const untouched = tools.copy(args.streams, (values) => values)
    tools.run('hc-pre', { ...args, streams: untouched, pending: null })
    tools.run('hc-post', { streams: args.streams, update: args.pending })
  }),
  plant('hc-pre', 'leaves eps out of the root', (tools, args) => {
    tools.run('hc-pre', { ...args, normEps: 0 })
  }),
  plant('hc-pre', 'multiplies in ten bits', (tools, args) => {
    const cut = (value: number): number => Math.round(value * 512) / 512
    tools.run('hc-pre', { ...args, fn: tools.copy(args.fn, (values) => values.map(cut)) })
  }),
  plantFine('hc-pre', 'leaves hcEps out of C', (tools, args) => {
    const before = tools.copy(args.streams, (values) => values)
    tools.run('hc-pre', { ...args, streams: before, hcEps: 0 })
    const mix = tools.values(args.mix)
    tools.run('hc-pre', args)
    tools.put(args.mix, mix)
  }),
  plant('hc-head', 'contracts the row behind', (tools, args) => {
    const [rows = 1] = args.streams.shape
    if (args.picks.shape[0] === 0) return tools.run('hc-head', args)
    const picks = tools.copy(args.picks, (values) => values.map((pick) => (pick + 1) % rows))
    tools.run('hc-head', { ...args, picks })
  }),
  plant('hc-head', 'applies the pending C untransposed', (tools, args) => {
    tools.run('hc-head', withTransposedMix(tools, args))
  }),
  plant('hc-head', 'contracts before the update', (tools, args) => {
    if (args.pending === null) return tools.run('hc-head', args)
    const untouched = tools.copy(args.streams, (values) => values)
    tools.run('hc-head', { ...args, streams: untouched, pending: null })
    tools.run('hc-post', { streams: args.streams, update: args.pending })
  }),
  plant('hc-head', 'forgets the base', (tools, args) => {
    tools.run('hc-head', { ...args, base: tools.copy(args.base, (values) => values.fill(0)) })
  }),
]

/** One stream after the other, each from what the ones before it left. */
function updatedInPlace(
  tools: FaultTools,
  { streams: tensor, update }: OpTable['hc-post'],
  values: Float64Array,
): Float64Array {
  const [rows = 0, count = 0, hidden = 0] = tensor.shape
  const [y, post, mix] = [update.output, update.post, update.mix].map((part) => tools.values(part))
  const at = (row: number, a: number, d: number): number => (row * count + a) * hidden + d
  for (let row = 0; row < rows; row++) {
    for (let d = 0; d < hidden; d++) {
      for (let b = 0; b < count; b++) {
        let sum = (post?.[row * count + b] ?? 0) * (y?.[row * hidden + d] ?? 0)
        for (let a = 0; a < count; a++) {
          sum += (mix?.[(row * count + a) * count + b] ?? 0) * (values[at(row, a, d)] ?? 0)
        }
        values[at(row, b, d)] = sum
      }
    }
  }
  return values
}

const rotations: readonly Fault[] = [
  plant('latent-norm', 'rotates the wrong way', (tools, args) => {
    tools.run('latent-norm', { ...args, frequencies: backwards(tools, args.frequencies) })
  }),
  plant('latent-norm', 'is one position ahead', (tools, args) => {
    tools.run('latent-norm', { ...args, rows: nextPosition(tools, args.rows) })
  }),
  plant('latent-norm', 'pairs elements half a rotation apart', (tools, args) => {
    const [pairs = 0] = args.frequencies.shape
    tools.change(args.keys, (values) => pairedAcross(values, lastExtent(args.keys), pairs))
    tools.run('latent-norm', args)
  }),
  plant('latent-norm', 'does not round keys', (tools, args) => {
    tools.run('latent-norm', { ...args, quantise: false })
  }),
  plant('latent-norm', 'rounds keys though not asked to', (tools, args) => {
    tools.run('latent-norm', { ...args, quantise: true })
  }),
  plant('latent-norm', 'rounds the rotated elements too', (tools, args) => {
    tools.run('latent-norm', args)
    const [head, pairs] = [lastExtent(args.keys), args.frequencies.shape[0] ?? 0]
    if (!args.quantise) return
    tools.change(args.keys, (values) =>
      values.map((v, i) => (i % head < head - 2 * pairs ? v : Math.round(v * 8) / 8)),
    )
  }),
  plant('latent-norm', 'norms keys with the weight of queries', (tools, args) => {
    const own = tools.values(args.keyNorm)
    const other = tools.values(args.queryNorm)
    const keyNorm = tools.copy(args.keyNorm, () => own.map((_, i) => other[i] ?? 1))
    tools.run('latent-norm', { ...args, keyNorm })
  }),
  plant('latent-norm', 'leaves eps out of the root', (tools, args) => {
    tools.run('latent-norm', { ...args, eps: 0 })
  }),
  plant('query-rotate', 'rotates the wrong way', (tools, args) => {
    tools.run('query-rotate', { ...args, frequencies: backwards(tools, args.frequencies) })
  }),
  plant('query-rotate', 'norms all heads together', (tools, args) => {
    const [rows = 0, heads = 0, head = 0] = args.queries.shape
    const all = { ...args.queries, shape: [rows, 1, heads * head] }
    tools.run('query-rotate', { ...args, queries: all })
  }),
  plant('query-rotate', 'does not round the angle to fp32', (tools, args) => {
    const whole = tools.copy(args.rows, (fields) => fields.map((f, i) => (i % 4 === 0 ? 0 : f)))
    const positions = tools.values(args.rows).filter((_, i) => i % 4 === 0)
    tools.run('query-rotate', { ...args, rows: whole })
    const frequencies = tools.values(args.frequencies)
    tools.change(args.queries, (values) =>
      turnedExactly(values, args.queries.shape, frequencies, positions),
    )
  }),
  plant('query-rotate', 'leaves eps out of the root', (tools, args) => {
    tools.run('query-rotate', { ...args, eps: 0 })
  }),
  plant('query-rotate', 'pairs elements half a rotation apart', (tools, args) => {
    const [pairs = 0] = args.frequencies.shape
    tools.change(args.queries, (values) => pairedAcross(values, lastExtent(args.queries), pairs))
    tools.run('query-rotate', args)
  }),
  plant('index-query', 'rotates the wrong way', (tools, args) => {
    tools.run('index-query', { ...args, frequencies: backwards(tools, args.frequencies) })
  }),
  plant('index-query', 'does not scale the transform', (tools, args) => {
    tools.run('index-query', args)
    const factor = Math.sqrt(lastExtent(args.queries))
    tools.change(args.queries, (values) => values.map((value) => value * factor))
  }),
  plant('index-query', 'leaves the last stage of the transform out', (tools, args) => {
    tools.run('index-query', { ...args, quantise: false })
    const half = lastExtent(args.queries) / 2
    tools.change(args.queries, (values) => {
      const swapped = halvesSwapped(values, half)
      return values.map((value, i) => (value + (swapped[i] ?? 0)) * Math.SQRT1_2)
    })
  }),
  plant('index-query', 'does not round', (tools, args) => {
    tools.run('index-query', { ...args, quantise: false })
  }),
  plant('index-query', 'rounds ties upwards', (tools, args) => {
    if (!args.quantise) return tools.run('index-query', args)
    tools.run('index-query', { ...args, quantise: false })
    tools.change(args.queries, (values) => fp4TiesUp(values))
  }),
]

/** The rotation with angles as doubles. */
function turnedExactly(
  values: Float64Array,
  shape: readonly number[],
  frequencies: Float64Array,
  positions: Float64Array,
): Float64Array {
  const [, heads = 1, head = 1] = shape
  const plain = head - 2 * frequencies.length
  for (let at = 0; at < values.length; at += head) {
    const position = positions[Math.floor(at / (heads * head))] ?? 0
    for (const [i, frequency] of frequencies.entries()) {
      const [re, im] = [at + plain + 2 * i, at + plain + 2 * i + 1]
      const [a, b] = [values[re] ?? 0, values[im] ?? 0]
      const angle = position * frequency
      values[re] = a * Math.cos(angle) - b * Math.sin(angle)
      values[im] = a * Math.sin(angle) + b * Math.cos(angle)
    }
  }
  return values
}

/** FP4 per 32 whose ties go to the larger magnitude. */
function fp4TiesUp(values: Float64Array): Float64Array {
  const steps = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
  for (let from = 0; from < values.length; from += 32) {
    const block = values.subarray(from, from + 32)
    const largest = block.reduce((most, value) => Math.max(most, Math.abs(value)), 6 * 2 ** -126)
    const scale = 2 ** Math.ceil(Math.log2(largest / 6))
    for (const [i, value] of block.entries()) {
      const magnitude = Math.abs(value) / scale
      const code = steps.findLastIndex(
        (step, c) => c === 0 || magnitude >= (step + (steps[c - 1] ?? 0)) / 2,
      )
      block[i] = Math.sign(value) * (steps[code] ?? 0) * scale
    }
  }
  return values
}

const drafts: readonly Fault[] = [
  plant('draft-inputs', 'follows the row behind', (tools, args) => {
    const [rows = 1] = args.source.shape
    const picks = tools.copy(args.picks, (values) => values.map((pick) => (pick + 1) % rows))
    tools.run('draft-inputs', { ...args, picks })
  }),
  plant('draft-inputs', 'takes the next row of tokens', (tools, args) => {
    const tokens = tools.copy(args.tokens, (ids) => rolled(ids, 1))
    tools.run('draft-inputs', { ...args, tokens })
  }),
  plant('draft-inputs', 'exchanges the norms', (tools, args) => {
    const { embeddingNorm, streamNorm } = args
    tools.run('draft-inputs', { ...args, embeddingNorm: streamNorm, streamNorm: embeddingNorm })
  }),
  plant('draft-inputs', 'leaves eps out of the root', (tools, args) => {
    tools.run('draft-inputs', { ...args, eps: 0 })
  }),
  plant('draft-join', 'adds to the first stream only', (tools, args) => {
    const [, count = 1, hidden = 1] = args.streams.shape
    const before = tools.values(args.streams)
    tools.run('draft-join', args)
    tools.change(args.streams, (values) =>
      values.map((v, i) => (Math.floor(i / hidden) % count === 0 ? v : (before[i] ?? 0))),
    )
  }),
  plant('draft-join', 'adds the embedding of the row before', (tools, args) => {
    const embedding = tools.copy(args.embedding, (values) =>
      rolled(values, lastExtent(args.embedding)),
    )
    tools.run('draft-join', { ...args, embedding })
  }),
]

export const rowFaults: readonly Fault[] = [...copyAndEmbed, ...streams, ...rotations, ...drafts]
