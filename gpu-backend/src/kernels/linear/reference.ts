import { rowCount } from '../../device/tensor.ts'
import { matmul, type Rows } from '../numerics/matmul.ts'
import { activationBlock, simulateFp8 } from '../numerics/simulate.ts'
import type { ReferenceKernel } from '../reference-memory.ts'
import { type LinearArgs, readsFp8 } from './linear.ts'

export const linearReference: ReferenceKernel<LinearArgs> = (memory, args) => {
  const rows = rowCount(args.input)
  const stride = args.input.shape[1] ?? 0
  const plain: Rows = { values: memory.f32(args.input), at: 0, stride }
  const rounded = args.quantise && args.parts.some(readsFp8) ? roundedToFp8(plain) : plain
  for (const part of args.parts) {
    const weight = memory.matrix(part.weight)
    const output = { values: memory.f32(part.output), at: 0, stride: weight.rows }
    matmul(readsFp8(part) ? rounded : plain, rows, weight, output)
  }
}

function roundedToFp8(input: Rows): Rows {
  const values = input.values.slice()
  simulateFp8(values, { at: 0, length: values.length }, activationBlock)
  return { ...input, values }
}
