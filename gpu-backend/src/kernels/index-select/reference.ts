import { batchRow, EntryPages, visibleEntries } from '../batch.ts'
import { cachedRows } from '../cached-rows.ts'
import { dot } from '../numerics/matmul.ts'
import { topK } from '../numerics/top-k.ts'
import type { ReferenceKernel } from '../reference-memory.ts'
import type { IndexSelectArgs } from './index-select.ts'

export const indexSelectReference: ReferenceKernel<IndexSelectArgs> = (memory, args) => {
  const [rows = 0, heads = 0, head = 0] = args.queries.shape
  const limit = args.selected.shape[1] ?? 0
  const fields = memory.i32(args.rows)
  const queries = memory.f32(args.queries)
  const weights = memory.f32(args.weights)
  const pages = new EntryPages(memory, args.entries, args.pages)
  const keys = cachedRows(memory, args.entries, { kind: 'index', width: head })
  const key = new Float32Array(head)
  const selected = memory.i32(args.selected)
  for (let row = 0; row < rows; row++) {
    const { position, slot } = batchRow(fields, row)
    const visible = visibleEntries(position, args.ratio)
    const scores = new Float64Array(visible)
    // With no more entries than places there is nothing to choose, and scores go unused.
    for (let j = 0; visible > limit && j < visible; j++) {
      keys.read(pages.row(slot, j), key)
      let score = 0
      for (let h = 0; h < heads; h++) {
        const match = dot(queries, (row * heads + h) * head, key, 0, head)
        score += (weights[row * heads + h] ?? 0) * args.scale * Math.max(0, match)
      }
      scores[j] = score
    }
    const picks = topK(scores, visible, limit).sort((a, b) => a - b)
    selected.fill(-1, row * limit, (row + 1) * limit)
    selected.set(picks, row * limit)
  }
}
