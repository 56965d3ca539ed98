import { strict as assert } from 'node:assert'
import { type Tensor, tensorBytes } from '../../../device/tensor.ts'
import type { OpName, OpTable } from '../../registry.ts'
import { plant, plantFine, type Fault } from './faulty-device.ts'

// Mistakes any kernel can make, planted in every op.

/** What an op writes, and something it only reads. */
interface Operands {
  readonly outputs: readonly Tensor[]
  readonly input: Tensor
}

const operands: { readonly [Op in OpName]: (args: OpTable[Op]) => Operands } = {
  copy: ({ from, to }) => ({ outputs: [to], input: from }),
  embed: ({ streams, table }) => ({ outputs: [streams], input: table }),
  'hc-pre': ({ normed, post, mix, fn }) => ({ outputs: [normed, post, mix], input: fn }),
  'hc-post': ({ streams, update }) => ({ outputs: [streams], input: update.mix }),
  'hc-head': ({ output, fn }) => ({ outputs: [output], input: fn }),
  linear: ({ parts, input }) => ({ outputs: parts.map((part) => part.output), input }),
  'grouped-linear': ({ output, input }) => ({ outputs: [output], input }),
  'latent-norm': ({ queryLatent, keys, rows }) => ({ outputs: [queryLatent, keys], input: rows }),
  'query-rotate': ({ queries, rows }) => ({ outputs: [queries], input: rows }),
  'index-query': ({ queries, frequencies }) => ({ outputs: [queries], input: frequencies }),
  compress: ({ valueRing, scoreRing, entries, values }) => ({
    outputs: [valueRing, scoreRing, entries],
    input: values,
  }),
  'index-select': ({ selected, entries }) => ({ outputs: [selected], input: entries }),
  attention: ({ output, window, keys }) => ({ outputs: [output, window], input: keys }),
  route: ({ experts, weights, input }) => ({ outputs: [experts, weights], input }),
  experts: ({ output, part, weights }) => ({
    outputs: part === undefined ? [output] : [part.results, output],
    input: weights,
  }),
  'expert-sum': ({ output, experts }) => ({ outputs: [output], input: experts }),
  'draft-inputs': ({ embedding, streams, source }) => ({
    outputs: [embedding, streams],
    input: source,
  }),
  'draft-join': ({ streams, embedding }) => ({ outputs: [streams], input: embedding }),
  gather: ({ parts }) => {
    const [first] = parts
    assert(first !== undefined, 'a gather has parts')
    return { outputs: parts.map(({ to }) => to), input: first.from }
  },
}

function everywhere<Op extends OpName>(op: Op): readonly Fault[] {
  const of = operands[op]
  return [
    plant(op, 'writes past the end', (tools, args) => {
      tools.run(op, args)
      for (const output of of(args).outputs)
        tools.poke(output, tensorBytes(output), Uint8Array.of(7))
    }),
    plant(op, 'writes before the beginning', (tools, args) => {
      tools.run(op, args)
      for (const output of of(args).outputs) tools.poke(output, -4, new Uint8Array(4))
    }),
    plant(op, 'changes an input', (tools, args) => {
      tools.run(op, args)
      const { input } = of(args)
      const last = tools.bytes(input).at(-1)
      if (last !== undefined) tools.poke(input, tensorBytes(input) - 1, Uint8Array.of(last ^ 1))
    }),
    plant(op, 'writes nothing', () => undefined),
    ...Array.from({ length: outputCounts[op] }, (_, index) => missesLast(op, index)),
    ...realOutputs[op].map((index) => offByLittle(op, index)),
    otherBitsNextTime(op),
  ]
}

/** Of `linear` the first part's; it has as many as it has parts. */
const outputCounts: { readonly [Op in OpName]: number } = {
  copy: 1,
  embed: 1,
  'hc-pre': 3,
  'hc-post': 1,
  'hc-head': 1,
  linear: 1,
  'grouped-linear': 1,
  'latent-norm': 2,
  'query-rotate': 1,
  'index-query': 1,
  compress: 3,
  'index-select': 1,
  attention: 2,
  route: 2,
  experts: 1,
  'expert-sum': 1,
  'draft-inputs': 2,
  'draft-join': 1,
  gather: 1,
}

/** Outputs that are worked out, not moved or counted. */
const realOutputs: { readonly [Op in OpName]: readonly number[] } = {
  copy: [0],
  embed: [0],
  'hc-pre': [0, 1, 2],
  'hc-post': [0],
  'hc-head': [0],
  linear: [0],
  'grouped-linear': [0],
  'latent-norm': [0, 1],
  'query-rotate': [0],
  'index-query': [0],
  compress: [0, 1, 2],
  'index-select': [],
  attention: [0, 1],
  route: [1],
  experts: [0],
  'expert-sum': [0],
  'draft-inputs': [0, 1],
  'draft-join': [0],
  gather: [0],
}

/** Puts back the last four bytes that the op changed. */
function missesLast<Op extends OpName>(op: Op, index: number): Fault {
  return plant(op, `misses the last element of output ${index}`, (tools, args) => {
    const output = operands[op](args).outputs[index]
    if (output === undefined) return
    const before = tools.bytes(output)
    tools.run(op, args)
    const last = tools.bytes(output).findLastIndex((byte, i) => byte !== before[i])
    const at = Math.max(0, last - (last % 4))
    tools.poke(output, at, before.subarray(at, at + 4))
  })
}

function offByLittle<Op extends OpName>(op: Op, index: number): Fault {
  return plantFine(op, `is off by a sixteen-thousandth in output ${index}`, (tools, args) => {
    tools.run(op, args)
    const output = operands[op](args).outputs[index]
    if (output?.dtype !== 'f32') return
    tools.change(output, (values) => values.map((value) => value * (1 + 2 ** -14)))
  })
}

/** As a race would: every other run the lowest bit of one value differs, far inside any bound. */
function otherBitsNextTime<Op extends OpName>(op: Op): Fault {
  let runs = 0
  return plant(op, 'gives other bits the next time', (tools, args) => {
    tools.run(op, args)
    const output = operands[op](args).outputs[0]
    if (output === undefined || ++runs % 2 === 1) return
    const first = tools.bytes(output).findIndex((byte, i) => i % 4 === 0 && byte < 255)
    if (first >= 0) tools.poke(output, first, Uint8Array.of((tools.bytes(output)[first] ?? 0) ^ 1))
  })
}

export const faultsAnywhere: readonly Fault[] = (Object.keys(operands) as OpName[]).flatMap(
  everywhere,
)
