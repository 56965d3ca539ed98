import { rowCount } from '../../device/tensor.ts'
import { type MatrixReader, matmul } from '../numerics/matmul.ts'
import type { ReferenceKernel } from '../reference-memory.ts'
import type { GroupedLinearArgs } from './grouped-linear.ts'

export const groupedLinearReference: ReferenceKernel<GroupedLinearArgs> = (memory, args) => {
  const rows = rowCount(args.input)
  const weight = memory.matrix(args.weight)
  const input = memory.f32(args.input)
  const output = memory.f32(args.output)
  const rank = weight.rows / args.groups
  for (let group = 0; group < args.groups; group++) {
    matmul(
      { values: input, at: group * weight.width, stride: args.groups * weight.width },
      rows,
      rowRange(weight, group * rank, rank),
      { values: output, at: group * rank, stride: weight.rows },
    )
  }
}

/** Rows `from … from + rows − 1` of a matrix as a matrix. */
function rowRange(matrix: MatrixReader, from: number, rows: number): MatrixReader {
  const { values, width } = matrix
  return { rows, width, values, load: (first, count) => matrix.load(from + first, count) }
}
