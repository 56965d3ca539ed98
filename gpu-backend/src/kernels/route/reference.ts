import { matmul } from '../numerics/matmul.ts'
import { sqrtSoftplus } from '../numerics/sigmoid.ts'
import { topK } from '../numerics/top-k.ts'
import type { ReferenceKernel, ReferenceMemory } from '../reference-memory.ts'
import type { RouteArgs } from './route.ts'

export const routeReference: ReferenceKernel<RouteArgs> = (memory, args) => {
  const [rows = 0, hidden = 0] = args.input.shape
  const picked = args.experts.shape[1] ?? 0
  const gate = memory.matrix({ weight: args.gate, scale: null })
  const logits = new Float32Array(rows * gate.rows)
  const input = { values: memory.f32(args.input), at: 0, stride: hidden }
  matmul(input, rows, gate, { values: logits, at: 0, stride: gate.rows })
  const choose = chooser(memory, args)
  const experts = memory.i32(args.experts)
  const weights = memory.f32(args.weights)
  for (let row = 0; row < rows; row++) {
    const scores = Float64Array.from(
      logits.subarray(row * gate.rows, (row + 1) * gate.rows),
      sqrtSoftplus,
    )
    const chosen = choose(row, scores)
    let sum = 0
    for (const expert of chosen) sum += scores[expert] ?? 0
    experts.set(chosen, row * picked)
    for (const [slot, expert] of chosen.entries()) {
      weights[row * picked + slot] = ((scores[expert] ?? 0) / sum) * args.scalingFactor
    }
  }
}

type Chooser = (row: number, scores: Float64Array) => readonly number[]

function chooser(memory: ReferenceMemory, { choice, tokens, experts }: RouteArgs): Chooser {
  const picked = experts.shape[1] ?? 0
  if (choice.by === 'token') {
    const table = memory.i32(choice.table)
    const ids = memory.i32(tokens)
    return (row) => {
      const at = (ids[row] ?? 0) * picked
      return [...table.subarray(at, at + picked)]
    }
  }
  const bias = memory.f32(choice.bias)
  return (_, scores) => {
    const biased = scores.map((score, expert) => score + (bias[expert] ?? 0))
    return topK(biased, biased.length, picked)
  }
}
