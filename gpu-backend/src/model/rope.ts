import type { ModelConfig } from '#weights/layout/config.ts'

/** Angles a position of one, per pair of rotated elements, in fp32. */
export interface RopeFrequencies {
  /** Of layers with a window only. */
  readonly plain: Float32Array
  /** Of layers that compress, for everything they rotate. */
  readonly yarn: Float32Array
}

type RopeConfig = Pick<ModelConfig, 'ropeDim' | 'ropeTheta' | 'compressRopeTheta' | 'ropeScaling'>

/**
 * Window layers rotate by θ^(−2i/dim) as it is. Compressing layers use their own θ with YaRN: fast
 * pairs keep their frequency, slow ones divide it by the factor, a ramp joins them. No amplitude.
 */
export function ropeFrequencies(config: RopeConfig): RopeFrequencies {
  const { ropeDim, ropeTheta, compressRopeTheta } = config
  const plain = baseFrequencies(ropeDim, ropeTheta)
  const stretched = baseFrequencies(ropeDim, compressRopeTheta)
  const { low, high } = rampBounds(config)
  const yarn = stretched.map((frequency, pair) => {
    const ramp = Math.min(Math.max((pair - low) / (high - low), 0), 1)
    return frequency * (1 - ramp) + (frequency / config.ropeScaling.factor) * ramp
  })
  return { plain: Float32Array.from(plain), yarn: Float32Array.from(yarn) }
}

function baseFrequencies(dim: number, theta: number): Float64Array {
  return Float64Array.from({ length: dim / 2 }, (_, pair) => theta ** ((-2 * pair) / dim))
}

/** Pairs below `low` turn often enough within the original context, those above `high` hardly. */
function rampBounds(config: RopeConfig): { readonly low: number; readonly high: number } {
  const { ropeDim, compressRopeTheta, ropeScaling } = config
  const pairOfTurns = (turns: number): number =>
    (ropeDim * Math.log(ropeScaling.originalMaxPositionEmbeddings / (turns * 2 * Math.PI))) /
    (2 * Math.log(compressRopeTheta))
  const low = Math.max(Math.floor(pairOfTurns(ropeScaling.betaFast)), 0)
  const high = Math.min(Math.ceil(pairOfTurns(ropeScaling.betaSlow)), ropeDim - 1)
  return { low, high: low === high ? high + 0.001 : high }
}
