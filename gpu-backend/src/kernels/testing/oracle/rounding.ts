import { allowance, type Estimate, exactly } from '../estimate.ts'
import { type BlockFormat, roundBlocks, scaleFor } from './formats.ts'

/**
 * Rounds in blocks, where what is rounded is itself known only within its allowance: the error of a
 * result is how far the rounded ends of its interval lie from it, under every scale its block may
 * have. Where no boundary is near that is nothing.
 */
export function roundedWithDoubt(x: Estimate, format: BlockFormat): Estimate {
  const result = exactly(roundBlocks(x.value, format))
  for (let from = 0; from < x.value.length; from += format.block) {
    const to = Math.min(from + format.block, x.value.length)
    for (const scale of scalesWithin(x, from, to, format)) {
      for (let i = from; i < to; i++) {
        const value = x.value[i] ?? 0
        for (const end of [value - allowance(x, i), value + allowance(x, i)]) {
          const distance = Math.abs(format.round(end / scale) * scale - (result.value[i] ?? 0))
          result.certain[i] = Math.max(result.certain[i] ?? 0, distance)
        }
      }
    }
  }
  return result
}

/** Every scale the block may have, smallest first: its largest magnitude decides. */
export function scalesWithin(
  x: Estimate,
  from: number,
  to: number,
  format: BlockFormat,
): readonly number[] {
  let [low, high] = [0, 0]
  for (let i = from; i < to; i++) {
    const magnitude = Math.abs(x.value[i] ?? 0)
    low = Math.max(low, magnitude - allowance(x, i))
    high = Math.max(high, magnitude + allowance(x, i))
  }
  const scales = []
  const last = scaleFor(format, high)
  for (let scale = scaleFor(format, low); scale <= last; scale *= 2) scales.push(scale)
  return scales
}
