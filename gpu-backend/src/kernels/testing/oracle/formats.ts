// The number formats once more, from their definitions: tables and arithmetic in doubles, where the
// devices shift bits. Written apart from `numerics/` so that one can be wrong without the other.

/** Non-negative e2m1 values in code order. */
const e2m1Table: readonly number[] = [0, 0.5, 1, 1.5, 2, 3, 4, 6]

/** Non-negative finite e4m3 values in code order: 0 … 448. */
const e4m3Table: readonly number[] = Array.from({ length: 127 }, (_, code) => {
  const [exponent, eighths] = [Math.trunc(code / 8), code % 8]
  return exponent === 0 ? eighths / 512 : (8 + eighths) * 2 ** (exponent - 10)
})

/** Non-negative values and then the same with the sign bit set: values by code. */
function withSigns(table: readonly number[]): readonly number[] {
  return [...table, ...table.map((magnitude) => -magnitude)]
}

/** Values by code. */
export const e2m1Codes: readonly number[] = withSigns(e2m1Table)
export const e4m3Codes: readonly number[] = withSigns([...e4m3Table, Number.NaN])
export const e8m0Codes: readonly number[] = Array.from({ length: 256 }, (_, byte) =>
  byte === 255 ? Number.NaN : 2 ** (byte - 127),
)

/** `magnitude` with the sign of `value`, a zero's included. */
function signed(magnitude: number, value: number): number {
  return value < 0 || Object.is(value, -0) ? -magnitude : magnitude
}

/** The entry of an ascending table nearest to |value|, ties to the even code, clamped at the end. */
function nearest(table: readonly number[], value: number): number {
  const magnitude = Math.abs(value)
  let low = 0
  let high = table.length - 1
  if (magnitude >= (table[high] ?? 0)) return signed(table[high] ?? 0, value)
  while (high - low > 1) {
    const middle = (low + high) >> 1
    if ((table[middle] ?? 0) <= magnitude) low = middle
    else high = middle
  }
  const below = magnitude - (table[low] ?? 0)
  const above = (table[high] ?? 0) - magnitude
  const up = below > above || (below === above && high % 2 === 0)
  return signed(table[up ? high : low] ?? 0, value)
}

/** A block format: values share a power-of-two scale chosen by their largest magnitude. */
export interface BlockFormat {
  readonly name: string
  readonly block: number
  readonly largest: number
  /** Magnitudes below this count as this when the scale is chosen. */
  readonly floor: number
  round(value: number): number
}

const fp8 = { largest: 448, floor: Math.fround(1e-4), round: (v: number) => nearest(e4m3Table, v) }

/** Inputs of FP8 and FP4 linears. */
export const fp8Inputs: BlockFormat = { ...fp8, name: 'fp8 per 128', block: 128 }
/** Cached keys, outside the rotation. */
export const fp8Keys: BlockFormat = { ...fp8, name: 'fp8 per 64', block: 64 }
/** Index queries and keys. */
export const fp4Index: BlockFormat = {
  name: 'fp4 per 32',
  block: 32,
  largest: 6,
  floor: 6 * 2 ** -126,
  round: (v) => nearest(e2m1Table, v),
}

/** The smallest power of two at or above `value`. */
export function powerOfTwoAbove(value: number): number {
  let power = 2 ** Math.round(Math.log2(value))
  while (power < value) power *= 2
  while (power / 2 >= value) power /= 2
  return power
}

/** The scale of a block whose largest magnitude is `largest`; the product is one of fp32. */
export function scaleFor(format: BlockFormat, largest: number): number {
  const amax = Math.max(Math.fround(largest), format.floor)
  return powerOfTwoAbove(Math.fround(amax * Math.fround(1 / format.largest)))
}

/** What survives the format: values `[…]` in runs of `format.block`. */
export function roundBlocks(values: Float64Array, format: BlockFormat): Float64Array {
  const rounded = new Float64Array(values.length)
  for (let from = 0; from < values.length; from += format.block) {
    const block = values.subarray(from, from + format.block)
    const largest = block.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
    const scale = scaleFor(format, largest)
    for (const [i, value] of block.entries())
      rounded[from + i] = format.round(value / scale) * scale
  }
  return rounded
}

/** The nearest bfloat16 value, ties to even. */
export function roundBf16(value: number): number {
  if (value === 0 || !Number.isFinite(value)) return value
  const step = 2 ** (Math.max(exponentOf(value), -126) - 7)
  const steps = value / step
  const whole = Math.floor(steps)
  const rest = steps - whole
  const even = whole % 2 === 0
  const rounded = (rest > 0.5 || (rest === 0.5 && !even) ? whole + 1 : whole) * step
  if (Math.abs(rounded) >= 2 ** 128) return Math.sign(value) * Infinity
  // A negative that rounds to nothing keeps its sign.
  return rounded === 0 && value < 0 ? -0 : rounded
}

const double = new Float64Array(1)
const words = new Uint32Array(double.buffer)

/** ⌊log2 |value|⌋ of a normal double, which is its exponent field; its upper word comes second. */
function exponentOf(value: number): number {
  double[0] = value
  return (((words[1] ?? 0) >>> 20) & 2047) - 1023
}
