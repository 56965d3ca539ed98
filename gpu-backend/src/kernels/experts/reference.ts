import { type LinearWeight, rowCount, stackItem } from '../../device/tensor.ts'
import { matmul, type Rows } from '../numerics/matmul.ts'
import { sigmoid } from '../numerics/sigmoid.ts'
import { activationBlock, simulateFp8 } from '../numerics/simulate.ts'
import type { ReferenceKernel, ReferenceMemory } from '../reference-memory.ts'
import type { ExpertsArgs, ExpertWeights } from './experts.ts'

export const expertsReference: ReferenceKernel<ExpertsArgs> = (memory, args) => {
  const [rows = 0, hidden = 0] = args.input.shape
  const picked = args.experts.shape[1] ?? 0
  const weights = memory.f32(args.weights)
  const input = memory.f32(args.input).slice()
  if (args.quantise) simulateFp8(input, { at: 0, length: input.length }, activationBlock)
  const { part } = args
  const firstExpert = part?.firstExpert ?? 0
  const count = rowCount(args.routed.gate.weight)
  // One result for each (row, slot), so that a sum has its order whoever computed them.
  const results =
    part === undefined ? new Float32Array(rows * picked * hidden) : memory.f32(part.results)
  for (const [pick, places] of placesByExpert(memory.i32(args.experts))) {
    const expert = pick - firstExpert
    if (part !== undefined && (expert < 0 || expert >= count)) continue
    const visits = places.map((place) => ({
      row: Math.floor(place / picked),
      weight: weights[place] ?? 0,
    }))
    const output = runExpert(memory, args, expertOfStack(args.routed, expert), input, visits)
    for (const [visit, place] of places.entries()) {
      results.set(output.subarray(visit * hidden, (visit + 1) * hidden), place * hidden)
    }
  }
  const output = memory.f32(args.output)
  const firstRow = part?.firstRow ?? 0
  const ownRows = Array.from({ length: rowCount(args.output) }, (_, i) => {
    return { row: firstRow + i, weight: 1 }
  })
  const shared = runExpert(memory, args, args.shared, input, ownRows)
  if (part !== undefined) {
    output.set(shared)
    return
  }
  for (let i = 0; i < output.length; i++) {
    const row = Math.floor(i / hidden)
    let sum = 0
    for (let slot = 0; slot < picked; slot++) {
      sum += results[(row * picked + slot) * hidden + (i % hidden)] ?? 0
    }
    output[i] = sum + (shared[i] ?? 0)
  }
}

/** Flat indices into `[rows, experts a token]`, by the expert that stands there. */
function placesByExpert(experts: Int32Array): ReadonlyMap<number, readonly number[]> {
  return Map.groupBy(experts.keys(), (place) => experts[place] ?? 0)
}

/** A row an expert sees, and what its hidden activation is multiplied by. */
interface Visit {
  readonly row: number
  readonly weight: number
}

/** down · (silu(min(gate·v, limit)) · clamp(up·v, ±limit) · weight) for each visit. */
function runExpert(
  memory: ReferenceMemory,
  { limit, quantise }: ExpertsArgs,
  expert: ExpertWeights,
  input: Float32Array,
  visits: readonly Visit[],
): Float32Array {
  const gate = memory.matrix(expert.gate)
  const down = memory.matrix(expert.down)
  const gathered = rowsOf(visits.length, gate.width)
  for (const [visit, { row }] of visits.entries()) {
    const from = row * gate.width
    gathered.values.set(input.subarray(from, from + gate.width), visit * gate.width)
  }
  const inner = rowsOf(visits.length, gate.rows)
  const up = rowsOf(visits.length, gate.rows)
  const result = rowsOf(visits.length, down.rows)
  matmul(gathered, visits.length, gate, inner)
  matmul(gathered, visits.length, memory.matrix(expert.up), up)
  for (let i = 0; i < inner.values.length; i++) {
    const weight = visits[Math.floor(i / gate.rows)]?.weight ?? 0
    const g = Math.min(inner.values[i] ?? 0, limit)
    const u = Math.max(-limit, Math.min(up.values[i] ?? 0, limit))
    inner.values[i] = g * sigmoid(g) * u * weight
  }
  if (quantise) simulateFp8(inner.values, { at: 0, length: inner.values.length }, activationBlock)
  matmul(inner, visits.length, down, result)
  return result.values
}

function rowsOf(count: number, width: number): Rows {
  return { values: new Float32Array(count * width), at: 0, stride: width }
}

function expertOfStack(stack: ExpertWeights, expert: number): ExpertWeights {
  const item = ({ weight, scale }: LinearWeight): LinearWeight => ({
    weight: stackItem(weight, expert),
    scale: scale === null ? null : stackItem(scale, expert),
  })
  return { gate: item(stack.gate), up: item(stack.up), down: item(stack.down) }
}
