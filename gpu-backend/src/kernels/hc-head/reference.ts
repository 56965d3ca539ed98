import { sigmoid } from '../numerics/sigmoid.ts'
import { contractAndNorm, mixLogits, streamShape, updateStreams } from '../numerics/streams.ts'
import type { ReferenceKernel } from '../reference-memory.ts'
import type { HcHeadArgs } from './hc-head.ts'

export const hcHeadReference: ReferenceKernel<HcHeadArgs> = (memory, args) => {
  if (args.pending !== null) updateStreams(memory, args.streams, args.pending)
  const { streams: count, hidden } = streamShape(args.streams)
  const all = memory.f32(args.streams)
  const fn = memory.matrix({ weight: args.fn, scale: null })
  const base = memory.f32(args.base)
  const scale = memory.f32(args.scale)[0] ?? 0
  const norm = memory.values(args.norm)
  const output = memory.f32(args.output)
  const weights = new Float64Array(count)
  for (const [index, pick] of memory.i32(args.picks).entries()) {
    const streams = all.subarray(pick * count * hidden, (pick + 1) * count * hidden)
    const logits = mixLogits(streams, 1, fn, args.normEps)
    for (let a = 0; a < count; a++) {
      weights[a] = sigmoid((logits[a] ?? 0) * scale + (base[a] ?? 0)) + args.hcEps
    }
    const out = output.subarray(index * hidden, (index + 1) * hidden)
    contractAndNorm({ streams, at: 0, weights }, norm, args.normEps, out)
  }
}
