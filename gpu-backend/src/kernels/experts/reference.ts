import { type LinearWeight, rowCount, stackItem } from '../../device/tensor.ts'
import { matmul, type Rows } from '../numerics/matmul.ts'
import { sigmoid } from '../numerics/sigmoid.ts'
import { activationBlock, simulateFp8 } from '../numerics/simulate.ts'
import type { ReferenceKernel, ReferenceMemory } from '../reference-memory.ts'
import type { ExpertsArgs, ExpertWeights } from './experts.ts'

export const expertsReference: ReferenceKernel<ExpertsArgs> = (memory, args) => {
  const [rows = 0, hidden = 0] = args.input.shape
  const picked = args.experts.shape[1] ?? 0
  const input = memory.f32(args.input)
  const chosen = memory.i32(args.experts)
  const weights = memory.f32(args.weights)
  const output = memory.f32(args.output)
  const sum = new Float64Array(hidden)
  for (let row = 0; row < rows; row++) {
    const values = input.slice(row * hidden, (row + 1) * hidden)
    if (args.quantise) simulateFp8(values, { at: 0, length: hidden }, activationBlock)
    sum.fill(0)
    for (let slot = row * picked; slot < (row + 1) * picked; slot++) {
      const expert = expertOfStack(args.routed, chosen[slot] ?? 0)
      addExpert(memory, args, expert, { values, weight: weights[slot] ?? 0 }, sum)
    }
    addExpert(memory, args, args.shared, { values, weight: 1 }, sum)
    output.set(sum, row * hidden)
  }
}

interface Weighted {
  readonly values: Float32Array
  readonly weight: number
}

function addExpert(
  memory: ReferenceMemory,
  { limit, quantise }: ExpertsArgs,
  expert: ExpertWeights,
  { values, weight }: Weighted,
  sum: Float64Array,
): void {
  const width = rowCount(expert.gate.weight)
  const inner = oneRow(new Float32Array(width))
  const up = oneRow(new Float32Array(width))
  const result = oneRow(new Float32Array(sum.length))
  matmul(oneRow(values), 1, memory.matrix(expert.gate), inner)
  matmul(oneRow(values), 1, memory.matrix(expert.up), up)
  for (let i = 0; i < width; i++) {
    const g = Math.min(inner.values[i] ?? 0, limit)
    const u = Math.max(-limit, Math.min(up.values[i] ?? 0, limit))
    inner.values[i] = g * sigmoid(g) * u * weight
  }
  if (quantise) simulateFp8(inner.values, { at: 0, length: width }, activationBlock)
  matmul(inner, 1, memory.matrix(expert.down), result)
  for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] ?? 0) + (result.values[i] ?? 0)
}

function oneRow(values: Float32Array): Rows {
  return { values, at: 0, stride: values.length }
}

function expertOfStack(stack: ExpertWeights, expert: number): ExpertWeights {
  const item = ({ weight, scale }: LinearWeight): LinearWeight => ({
    weight: stackItem(weight, expert),
    scale: scale === null ? null : stackItem(scale, expert),
  })
  return { gate: item(stack.gate), up: item(stack.up), down: item(stack.down) }
}
