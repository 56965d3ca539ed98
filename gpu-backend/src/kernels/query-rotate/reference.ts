import { batchRow } from '../batch.ts'
import { inverseRms } from '../numerics/rms-norm.ts'
import { rotate } from '../numerics/rotate.ts'
import type { ReferenceKernel } from '../reference-memory.ts'
import type { QueryRotateArgs } from './query-rotate.ts'

export const queryRotateReference: ReferenceKernel<QueryRotateArgs> = (memory, args) => {
  const [rows = 0, heads = 0, head = 0] = args.queries.shape
  const queries = memory.f32(args.queries)
  const fields = memory.i32(args.rows)
  const frequencies = memory.f32(args.frequencies)
  for (let row = 0; row < rows; row++) {
    const { position } = batchRow(fields, row)
    for (let h = 0; h < heads; h++) {
      const at = (row * heads + h) * head
      const inverse = inverseRms(queries, { at, length: head }, args.eps)
      for (let i = at; i < at + head; i++) queries[i] = (queries[i] ?? 0) * inverse
      rotate(queries, at + head - 2 * frequencies.length, frequencies, position)
    }
  }
}
