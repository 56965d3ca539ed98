import type { LinearWeight } from '../../../device/tensor.ts'
import type { ExpertWeights } from '../../experts/experts.ts'
import type { OpTable } from '../../registry.ts'
import { e4m3Codes } from '../oracle/formats.ts'
import { plant, plantFine, type Fault, type FaultTools } from './faulty-device.ts'
import { lastExtent, nibblesSwapped, rolled } from './tensors.ts'

// Mistakes in reading weights, rounding inputs and choosing experts.

type LinearArgs = OpTable['linear']

/** The same op on weights that were read wrongly. */
function misread(
  name: string,
  edit: (tools: FaultTools, weight: LinearWeight) => LinearWeight,
): readonly Fault[] {
  const each = (tools: FaultTools, weights: ExpertWeights): ExpertWeights => ({
    gate: edit(tools, weights.gate),
    up: edit(tools, weights.up),
    down: edit(tools, weights.down),
  })
  return [
    plant('linear', name, (tools, args) => {
      const parts = args.parts.map((part) => ({ ...part, weight: edit(tools, part.weight) }))
      tools.run('linear', { ...args, parts })
    }),
    plant('grouped-linear', name, (tools, args) => {
      tools.run('grouped-linear', { ...args, weight: edit(tools, args.weight) })
    }),
    plant('experts', name, (tools, args) => {
      const [routed, shared] = [each(tools, args.routed), each(tools, args.shared)]
      tools.run('experts', { ...args, routed, shared })
    }),
  ]
}

const misreadings: readonly Fault[] = [
  ...misread('reads the high nibble first', (tools, { weight, scale }) => {
    if (weight.dtype !== 'fp4') return { weight, scale }
    return { weight: tools.copyBytes(weight, nibblesSwapped), scale }
  }).filter(({ op }) => op !== 'grouped-linear'),
  ...misread('takes the scale of the neighbouring tile', (tools, { weight, scale }) => {
    if (scale === null) return { weight, scale }
    return {
      weight,
      scale: tools.copyBytes(scale, (bytes) => bytes.map((_, i) => bytes[i ^ 1] ?? bytes[i] ?? 0)),
    }
  }),
  ...misread("is one off in a scale's exponent", (tools, { weight, scale }) => {
    if (scale === null) return { weight, scale }
    return { weight, scale: tools.copyBytes(scale, (bytes) => bytes.map((byte) => byte + 1)) }
  }),
  ...misread('reads subnormal FP8 codes as zero', (tools, { weight, scale }) => {
    if (weight.dtype !== 'f8e4m3') return { weight, scale }
    const flushed = tools.copyBytes(weight, (codes) =>
      codes.map((code) => (Math.abs(e4m3Codes[code] ?? 0) < 2 ** -6 ? 0 : code)),
    )
    return { weight: flushed, scale }
  }),
  ...misread('loses the sign of FP4 codes', (tools, { weight, scale }) => {
    if (weight.dtype !== 'fp4') return { weight, scale }
    return { weight: tools.copyBytes(weight, (bytes) => bytes.map((b) => b & 0x77)), scale }
  }).filter(({ op }) => op !== 'grouped-linear'),
]

function isScaled({ weight }: { readonly weight: LinearWeight }): boolean {
  return weight.weight.dtype === 'f8e4m3' || weight.weight.dtype === 'fp4'
}

/** `linear` with inputs of scaled weights rounded in a way of one's own. */
function linearWithRounding(
  tools: FaultTools,
  args: LinearArgs,
  round: (values: Float64Array) => Float64Array,
): void {
  const plain = args.parts.filter((part) => !isScaled(part))
  if (plain.length > 0) tools.run('linear', { ...args, parts: plain })
  const scaled = args.parts.filter(isScaled)
  if (scaled.length === 0) return
  const input = args.quantise ? tools.copy(args.input, round) : args.input
  tools.run('linear', { input, quantise: false, parts: scaled })
}

/** FP8 per 128, with the scale and the nearest value chosen as told. */
function fp8Wrongly(
  values: Float64Array,
  rules: {
    readonly block: number
    readonly scale: (ideal: number) => number
    readonly nearest: (x: number) => number
  },
): Float64Array {
  for (let from = 0; from < values.length; from += rules.block) {
    const block = values.subarray(from, from + rules.block)
    const largest = block.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-4)
    const scale = rules.scale(largest / 448)
    for (const [i, value] of block.entries()) {
      block[i] = Math.sign(value) * rules.nearest(Math.abs(value) / scale) * scale
    }
  }
  return values
}

const magnitudes = e4m3Codes.slice(0, 127)
const above = (ideal: number): number => 2 ** Math.ceil(Math.log2(ideal))

/** The nearest magnitude; `tie` says which of two equally near ones. */
function nearest(x: number, tie: 'up' | 'even'): number {
  const code = magnitudes.findLastIndex((magnitude) => magnitude <= x)
  const [low, high] = [magnitudes[code] ?? 0, magnitudes[code + 1] ?? 448]
  const middle = (low + high) / 2
  if (x === middle) return tie === 'up' || code % 2 === 1 ? high : low
  return x > middle ? high : low
}

const roundings: readonly Fault[] = [
  plant('linear', 'does not round its input', (tools, args) => {
    tools.run('linear', { ...args, quantise: false })
  }),
  plant('linear', 'rounds the input of bf16 weights too', (tools, args) => {
    const round = (values: Float64Array): Float64Array =>
      fp8Wrongly(values, { block: 128, scale: above, nearest: (x) => nearest(x, 'even') })
    const input = args.quantise ? tools.copy(args.input, round) : args.input
    tools.run('linear', { ...args, input })
  }),
  plant('linear', 'rounds ties upwards', (tools, args) => {
    linearWithRounding(tools, args, (values) =>
      fp8Wrongly(values, { block: 128, scale: above, nearest: (x) => nearest(x, 'up') }),
    )
  }),
  plant('linear', 'takes the power of two below for a scale', (tools, args) => {
    linearWithRounding(tools, args, (values) =>
      fp8Wrongly(values, {
        block: 128,
        scale: (ideal) => above(ideal) / 2,
        nearest: (x) => nearest(x, 'even'),
      }),
    )
  }),
  plantFine('linear', 'shares a scale among 256 inputs', (tools, args) => {
    linearWithRounding(tools, args, (values) =>
      fp8Wrongly(values, { block: 256, scale: above, nearest: (x) => nearest(x, 'even') }),
    )
  }),
  plant('linear', 'leaves the last 32 inputs out', (tools, args) => {
    const width = lastExtent(args.input)
    const input = tools.copy(args.input, (x) => x.map((v, i) => (i % width < width - 32 ? v : 0)))
    tools.run('linear', { ...args, input })
  }),
  plant('linear', 'misses the last chunk of rows', (tools, args) => {
    const before = args.parts.map(({ output }) => tools.values(output))
    tools.run('linear', args)
    for (const [index, { output }] of args.parts.entries()) {
      const kept = Math.floor((output.shape[0] ?? 0) / 2) * lastExtent(output)
      tools.change(output, (values) =>
        values.map((v, i) => (i < kept ? v : (before[index]?.[i] ?? 0))),
      )
    }
  }),
  plant('linear', 'gives rows to their neighbours', (tools, args) => {
    tools.run('linear', args)
    for (const { output } of args.parts) {
      tools.change(output, (values) => rolled(values, lastExtent(output)))
    }
  }),
  plant('grouped-linear', 'rounds its input', (tools, args) => {
    const input = tools.copy(args.input, (values) =>
      fp8Wrongly(values, { block: 128, scale: above, nearest: (x) => nearest(x, 'even') }),
    )
    tools.run('grouped-linear', { ...args, input })
  }),
  plant('grouped-linear', "gives each group the next one's weight", (tools, args) => {
    tools.run('grouped-linear', args)
    const rank = lastExtent(args.output) / args.groups
    tools.change(args.output, (values) => rolled(values, rank))
  }),
  plant('grouped-linear', 'reads the input as if groups were innermost', (tools, args) => {
    const width = lastExtent(args.input)
    const { groups } = args
    const input = tools.copy(args.input, (values) =>
      values.map((_, i) => {
        const [start, at] = [i - (i % width), i % width]
        return (
          values[start + (at % (width / groups)) * groups + Math.floor((at * groups) / width)] ?? 0
        )
      }),
    )
    tools.run('grouped-linear', { ...args, input })
  }),
]

type ExpertsArgs = OpTable['experts']

function withExperts(
  name: string,
  edit: (tools: FaultTools, args: ExpertsArgs) => Partial<ExpertsArgs>,
): Fault {
  return plant('experts', name, (tools, args) => {
    tools.run('experts', { ...args, ...edit(tools, args) })
  })
}

function zeros(tools: FaultTools, { weight, scale }: LinearWeight): LinearWeight {
  return { weight: tools.copyBytes(weight, (bytes) => bytes.fill(0)), scale }
}

const experts: readonly Fault[] = [
  withExperts('does not clamp', () => ({ limit: 1e30 })),
  withExperts('exchanges gate and up', (_, { routed }) => {
    return { routed: { ...routed, gate: routed.up, up: routed.gate } }
  }),
  withExperts('runs the neighbouring expert', (tools, args) => {
    const [count = 1] = args.routed.gate.weight.shape
    return { experts: tools.copy(args.experts, (ids) => ids.map((id) => (id + 1) % count)) }
  }),
  withExperts('forgets the shared expert', (tools, { shared }) => {
    return { shared: { ...shared, down: zeros(tools, shared.down) } }
  }),
  withExperts("drops each row's last expert", (tools, { weights }) => {
    const picked = lastExtent(weights)
    return {
      weights: tools.copy(weights, (w) => w.map((v, i) => (i % picked === picked - 1 ? 0 : v))),
    }
  }),
  withExperts("exchanges the weights of a row's experts", (tools, { weights }) => {
    const picked = lastExtent(weights)
    return {
      weights: tools.copy(weights, (w) =>
        w.map((_, i) => w[i - (i % picked) + picked - 1 - (i % picked)] ?? 0),
      ),
    }
  }),
  withExperts('does not round', () => ({ quantise: false })),
  plant('experts', 'weighs behind the down projection', (tools, args) => {
    const [rows = 0, hidden = 0] = args.output.shape
    const sum = new Float64Array(rows * hidden)
    const picked = lastExtent(args.weights)
    const shares = tools.values(args.weights)
    const noShared = { ...args.shared, down: zeros(tools, args.shared.down) }
    for (let slot = 0; slot <= picked; slot++) {
      const own = (i: number): boolean => i % picked === slot
      const weights = tools.copy(args.weights, (w) => w.map((_, i) => (own(i) ? 1 : 0)))
      const shared = slot === picked ? args.shared : noShared
      tools.run('experts', { ...args, weights, shared })
      for (const [i, value] of tools.values(args.output).entries()) {
        const share = slot === picked ? 1 : (shares[Math.floor(i / hidden) * picked + slot] ?? 0)
        sum[i] = (sum[i] ?? 0) + share * value
      }
    }
    tools.put(args.output, sum)
  }),
  plant('experts', 'leaves the last rows out', (tools, args) => {
    const before = tools.bytes(args.output)
    tools.run('experts', args)
    const half = Math.ceil((args.output.shape[0] ?? 0) / 2)
    const at = (before.length / Math.max(1, args.output.shape[0] ?? 1)) * half
    tools.poke(args.output, at, before.subarray(at))
  }),
]

/** Mistakes that only a device with some of the experts can make. */
const partsOfExperts: readonly Fault[] = [
  withExperts('takes its experts for the first ones', (_, { part }) => {
    return part === undefined ? {} : { part: { ...part, firstExpert: 0 } }
  }),
  withExperts("works out the shared expert for others' rows", (_, { part }) => {
    return part === undefined ? {} : { part: { ...part, firstRow: 0 } }
  }),
  plant('experts', "writes to others' places", (tools, args) => {
    tools.run('experts', args)
    if (args.part === undefined) return
    const { results, firstExpert } = args.part
    const [count = 0] = args.routed.gate.weight.shape
    const bytes = tools.bytes(results)
    const each = lastExtent(results) * 4
    for (const [place, expert] of tools.values(args.experts).entries()) {
      const owned = expert >= firstExpert && expert < firstExpert + count
      if (!owned) bytes.fill(0, place * each, (place + 1) * each)
    }
    tools.putBytes(results, bytes)
  }),
  plant('expert-sum', "takes a neighbour's results", (tools, args) => {
    tools.run('expert-sum', { ...args, results: args.results.toReversed() })
  }),
  plant('expert-sum', 'leaves one device out', (tools, args) => {
    const [first, ...others] = args.results
    if (first === undefined) return
    const nothing = tools.copy(first, (values) => values.fill(0))
    tools.run('expert-sum', { ...args, results: [nothing, ...others] })
  }),
  plant('expert-sum', 'takes its rows for the first ones', (tools, args) => {
    tools.run('expert-sum', { ...args, firstRow: 0 })
  }),
  plant('expert-sum', 'forgets the shared expert', (tools, args) => {
    tools.change(args.output, (values) => values.fill(0))
    tools.run('expert-sum', args)
  }),
]

type RouteArgs = OpTable['route']

/** The router with one rule changed. */
function routedWrongly(
  tools: FaultTools,
  args: RouteArgs,
  rules: { readonly weigh: 'biased' | 'plain'; readonly tie: 'high' | 'low' },
): void {
  tools.run('route', args)
  const { choice } = args
  if (choice.by === 'token') return
  const [count = 0, hidden = 0] = args.gate.shape
  const picked = lastExtent(args.experts)
  const [x, gate, bias] = [args.input, args.gate, choice.bias].map((part) => tools.values(part))
  const experts: number[] = []
  const weights: number[] = []
  for (let row = 0; row < (args.input.shape[0] ?? 0); row++) {
    const scores = Array.from({ length: count }, (_, e) => {
      let logit = 0
      for (let i = 0; i < hidden; i++) {
        logit += (x?.[row * hidden + i] ?? 0) * (gate?.[e * hidden + i] ?? 0)
      }
      return Math.sqrt(Math.log1p(Math.exp(-Math.abs(logit))) + Math.max(0, logit))
    })
    const biased = scores.map((score, e) => score + (bias?.[e] ?? 0))
    const tie = (a: number, b: number): number => (rules.tie === 'low' ? a - b : b - a)
    const order = scores
      .map((_, e) => e)
      .toSorted((a, b) => (biased[b] ?? 0) - (biased[a] ?? 0) || tie(a, b))
    const picks = order.slice(0, picked)
    const shares = picks.map((pick) => (rules.weigh === 'plain' ? scores : biased)[pick] ?? 0)
    const sum = shares.reduce((total, share) => total + share, 0)
    experts.push(...picks)
    weights.push(...shares.map((share) => (share / sum) * args.scalingFactor))
  }
  tools.put(args.experts, experts)
  tools.put(args.weights, weights)
}

const routes: readonly Fault[] = [
  plant('route', 'lets the bias into the weights', (tools, args) => {
    routedWrongly(tools, args, { weigh: 'biased', tie: 'low' })
  }),
  plant('route', 'gives ties to the higher expert', (tools, args) => {
    routedWrongly(tools, args, { weigh: 'plain', tie: 'high' })
  }),
  plant('route', 'picks without the bias', (tools, args) => {
    const { choice } = args
    if (choice.by === 'token') return tools.run('route', args)
    const bias = tools.copy(choice.bias, (values) => values.fill(0))
    tools.run('route', { ...args, choice: { by: 'score', bias } })
  }),
  plant('route', 'forgets the scaling factor', (tools, args) => {
    tools.run('route', { ...args, scalingFactor: 1 })
  }),
  plant('route', 'gives the picked smallest first', (tools, args) => {
    tools.run('route', args)
    const picked = lastExtent(args.experts)
    const reverse = (values: Float64Array): Float64Array =>
      values.map((_, i) => values[i - (i % picked) + picked - 1 - (i % picked)] ?? 0)
    tools.change(args.experts, reverse)
    tools.change(args.weights, reverse)
  }),
  plant('route', "is one off in an expert's number", (tools, args) => {
    tools.run('route', args)
    tools.change(args.experts, (values) => values.map((expert) => expert + 1))
  }),
  plant('route', "reads the table of the next row's token", (tools, args) => {
    const tokens = tools.copy(args.tokens, (ids) => rolled(ids, 1))
    tools.run('route', { ...args, tokens })
  }),
  plant('route', 'overflows in e^g', (tools, args) => {
    tools.run('route', args)
    const amplified = tools.values(args.input).some((value) => Math.abs(value) > 60)
    if (amplified) tools.change(args.weights, (values) => values.fill(Number.NaN))
  }),
]

export const matrixFaults: readonly Fault[] = [
  ...misreadings,
  ...roundings,
  ...experts,
  ...partsOfExperts,
  ...routes,
]
