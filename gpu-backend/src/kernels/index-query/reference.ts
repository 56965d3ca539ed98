import { batchRow } from '../batch.ts'
import { walshHadamard } from '../numerics/fwht.ts'
import { rotate } from '../numerics/rotate.ts'
import { simulateFp4 } from '../numerics/simulate.ts'
import type { ReferenceKernel } from '../reference-memory.ts'
import type { IndexQueryArgs } from './index-query.ts'

export const indexQueryReference: ReferenceKernel<IndexQueryArgs> = (memory, args) => {
  const [rows = 0, heads = 0, head = 0] = args.queries.shape
  const queries = memory.f32(args.queries)
  const fields = memory.i32(args.rows)
  const frequencies = memory.f32(args.frequencies)
  for (let row = 0; row < rows; row++) {
    const { position } = batchRow(fields, row)
    for (let h = 0; h < heads; h++) {
      const at = (row * heads + h) * head
      rotate(queries, at + head - 2 * frequencies.length, frequencies, position)
      walshHadamard(queries, { at, length: head })
      if (args.quantise) simulateFp4(queries, { at, length: head })
    }
  }
}
