import type { ReferenceKernel } from '../reference-memory.ts'
import type { ExpertSumArgs } from './expert-sum.ts'

export const expertSumReference: ReferenceKernel<ExpertSumArgs> = (memory, args) => {
  const { expertsEach, firstRow } = args
  const [rows = 0, picked = 0] = args.experts.shape
  const [, hidden = 0] = args.output.shape
  const experts = memory.i32(args.experts)
  const results = args.results.map((tensor) => memory.f32(tensor))
  const output = memory.f32(args.output)
  for (let row = 0; row < rows; row++) {
    for (let i = 0; i < hidden; i++) {
      let sum = 0
      for (let slot = 0; slot < picked; slot++) {
        const owner = Math.floor((experts[row * picked + slot] ?? 0) / expertsEach)
        sum += results[owner]?.[((firstRow + row) * picked + slot) * hidden + i] ?? Number.NaN
      }
      output[row * hidden + i] = sum + (output[row * hidden + i] ?? 0)
    }
  }
}
