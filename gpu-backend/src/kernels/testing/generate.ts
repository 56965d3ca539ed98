import { elementCount } from '../../device/tensor.ts'
import { decodeValues, encodeValues } from './encoding.ts'
import { e8m0Codes } from './oracle/formats.ts'
import type { Random } from './random.ts'

// Inputs of cases. Everything comes from a `Random`, so a seed and a case's name give it again.

/**
 * normal    standard normal.
 * outliers  the same with one value in a hundred a hundred times as large, as activations have.
 * large     normal · 2^20: squares and sums far from 1.
 * tiny      normal · 2^-70 and now and then a subnormal: what eps and floors are for.
 * zeros     zeros of both signs.
 * ties8     multiples of a power of two exactly between two e4m3 values, largest 448.
 * ties4     the same for e2m1, largest 6.
 * edges8    the largest of each block just above 448·2^k, so that its scale doubles.
 */
export type ValueStyle =
  | 'normal'
  | 'outliers'
  | 'large'
  | 'tiny'
  | 'zeros'
  | 'ties8'
  | 'ties4'
  | 'edges8'

/** Whether roundings of such values are independent of each other. */
export function isStructured(style: ValueStyle): boolean {
  return style !== 'normal' && style !== 'outliers' && style !== 'large'
}

/** Blocks in which tied values share a magnitude: the widest block of any format. */
const tieBlock = 128

export function generateValues(random: Random, count: number, style: ValueStyle): Float64Array {
  const values = new Float64Array(count)
  for (let i = 0; i < count; i++) values[i] = draw(random, style, i)
  if (style !== 'ties8' && style !== 'ties4' && style !== 'edges8') return values
  for (let from = 0; from < count; from += tieBlock) {
    const scale = 2 ** (random.below(12) - 8)
    const end = Math.min(from + tieBlock, count)
    for (let i = from; i < end; i++) values[i] = (values[i] ?? 0) * scale
  }
  return values
}

function draw(random: Random, style: ValueStyle, index: number): number {
  const sign = random.bits() % 2 === 0 ? 1 : -1
  switch (style) {
    case 'normal':
      return random.normal()
    case 'outliers':
      return random.normal() * (random.below(100) === 0 ? 100 : 1)
    case 'large':
      return random.normal() * 2 ** 20
    case 'tiny':
      return random.below(8) === 0 ? sign * 2 ** -140 : random.normal() * 2 ** -70
    case 'zeros':
      return sign > 0 ? 0 : -0
    case 'ties8':
      return sign * (index % 32 === 0 ? 448 : tieE4m3(random))
    case 'ties4':
      return (
        sign * (index % 32 === 0 ? 6 : random.pick([0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 1]))
      )
    case 'edges8':
      return sign * (index % 32 === 0 ? Math.fround(448 * (1 + 2 ** -23)) : tieE4m3(random))
  }
}

/** Half-way between two neighbouring e4m3 values, subnormal ones included. */
function tieE4m3(random: Random): number {
  if (random.below(4) === 0) return (random.below(8) + 0.5) / 512
  return (1 + (random.below(7) + 0.5) / 8) * 2 ** (random.below(14) - 6)
}

export type WeightFormat = 'f32' | 'bf16' | 'f8e4m3' | 'fp4'

/**
 * plain   scales as a checkpoint has them, so that a row's product is of the order of 1.
 * wide    scales from 2^-127 to 2^8, rows and runs of zeros, subnormal codes, both zeros.
 */
export type WeightStyle = 'plain' | 'wide'

/** A weight in a checkpoint's format and the values it stands for. */
export interface GeneratedWeight {
  readonly dtype: WeightFormat
  readonly shape: readonly number[]
  readonly codes: Uint8Array
  readonly scales: { readonly shape: readonly number[]; readonly bytes: Uint8Array } | null
  readonly values: Float32Array
}

const fp8Side = 128
const fp4Run = 32

/** `shape` is `[rows, width]` or `[count, rows, width]`. */
export function generateWeight(
  random: Random,
  dtype: WeightFormat,
  shape: readonly number[],
  style: WeightStyle = 'plain',
): GeneratedWeight {
  switch (dtype) {
    case 'f32':
    case 'bf16':
      return generateFloats(random, dtype, shape, style)
    case 'f8e4m3':
    case 'fp4':
      return generateScaled(random, dtype, shape, style)
  }
}

const wideFactors: readonly number[] = [0, -0, 1, 2 ** -30, 2 ** 8]

function generateFloats(
  random: Random,
  dtype: 'f32' | 'bf16',
  shape: readonly number[],
  style: WeightStyle,
): GeneratedWeight {
  const width = shape.at(-1) ?? 1
  const values = new Float64Array(elementCount(shape))
  const amplitude = 1 / Math.sqrt(width)
  for (let i = 0; i < values.length; i++) {
    const factor = style === 'wide' ? random.pick(wideFactors) : 1
    values[i] = random.normal() * amplitude * factor
  }
  const codes = encodeValues(dtype, values)
  return {
    dtype,
    shape,
    codes,
    scales: null,
    values: new Float32Array(decodeValues(dtype, codes)),
  }
}

function generateScaled(
  random: Random,
  dtype: 'f8e4m3' | 'fp4',
  shape: readonly number[],
  style: WeightStyle,
): GeneratedWeight {
  const [rows = 0, width = 0] = shape.slice(-2)
  const count = elementCount(shape.slice(0, -2))
  const codes = new Uint8Array((count * rows * width) / (dtype === 'fp4' ? 2 : 1))
  random.fill(codes)
  if (dtype === 'f8e4m3') avoidNaN(codes)
  const [tall, wide] = dtype === 'fp4' ? [1, fp4Run] : [fp8Side, fp8Side]
  const tiles = [Math.ceil(rows / tall), Math.ceil(width / wide)] as const
  const bytes = new Uint8Array(count * tiles[0] * tiles[1])
  for (let i = 0; i < bytes.length; i++) bytes[i] = scaleByte(random, dtype, style)
  if (style === 'wide') codes.fill(0, 0, width)
  const values = new Float32Array(decodeValues(dtype, codes))
  for (let line = 0, at = 0; line < count * rows; line++) {
    const [item, row] = [Math.floor(line / rows), line % rows]
    const first = (item * tiles[0] + Math.floor(row / tall)) * tiles[1]
    for (let column = 0; column < width; column++, at++) {
      const scale = e8m0Codes[bytes[first + Math.floor(column / wide)] ?? 255] ?? Number.NaN
      values[at] = (values[at] ?? 0) * scale
    }
  }
  return {
    dtype,
    shape,
    codes,
    scales: { shape: [...shape.slice(0, -2), ...tiles], bytes },
    values,
  }
}

/** Checkpoints hold no NaN: loading refuses them. */
function avoidNaN(codes: Uint8Array): void {
  for (let i = 0; i < codes.length; i++)
    if (((codes[i] ?? 0) & 127) === 127) codes[i] = (codes[i] ?? 0) - 1
}

function scaleByte(random: Random, dtype: 'f8e4m3' | 'fp4', style: WeightStyle): number {
  if (style === 'wide' && random.below(4) === 0) return random.pick([0, 1, 2, 60, 110, 130, 135])
  return (dtype === 'fp4' ? 119 : 114) + random.below(4)
}
