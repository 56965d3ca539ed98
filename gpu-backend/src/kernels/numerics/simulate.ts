import { e2m1Max, roundE2m1 } from './e2m1.ts'
import { e4m3Max, roundE4m3 } from './e4m3.ts'
import { pow2ceil } from './e8m0.ts'

/** Inputs of an FP8 or FP4 linear share a scale 128 at a time, cached keys 64 at a time. */
export const activationBlock = 128
export const keyBlock = 64
/** Index queries and keys, in FP4. */
export const indexBlock = 32

const fp8Step = Math.fround(1 / e4m3Max)
const fp4Step = Math.fround(1 / e2m1Max)
/** Below these a block counts as this large, so that a scale stays a normal number. */
const fp8Floor = Math.fround(1e-4)
const fp4Floor = 6 * 2 ** -126

export interface Span {
  readonly at: number
  readonly length: number
}

/**
 * Replaces values by what survives FP8: per `block`, e4m3 of x ÷ s, times s, where s is the power of
 * two at or above amax ÷ 448. In place; exact in fp32.
 */
export function simulateFp8(values: Float32Array, span: Span, block: number): void {
  forEachBlock(values, span, block, (from, to, largest) => {
    const scale = fp8Scale(largest)
    for (let i = from; i < to; i++) values[i] = roundE4m3((values[i] ?? 0) / scale) * scale
  })
}

/** The same in FP4: blocks of 32, e2m1, s at or above amax ÷ 6. */
export function simulateFp4(values: Float32Array, span: Span): void {
  forEachBlock(values, span, indexBlock, (from, to, largest) => {
    const scale = fp4Scale(largest)
    for (let i = from; i < to; i++) values[i] = roundE2m1((values[i] ?? 0) / scale) * scale
  })
}

/** What a block whose largest magnitude is `largest` is divided by on its way to FP8, and to FP4. */
export function fp8Scale(largest: number): number {
  return pow2ceil(Math.fround(Math.max(largest, fp8Floor) * fp8Step))
}

export function fp4Scale(largest: number): number {
  return pow2ceil(Math.fround(Math.max(largest, fp4Floor) * fp4Step))
}

export function largestOf(values: Float32Array, from: number, to: number): number {
  let largest = 0
  for (let i = from; i < to; i++) largest = Math.max(largest, Math.abs(values[i] ?? 0))
  return largest
}

type BlockVisitor = (from: number, to: number, largest: number) => void

function forEachBlock(values: Float32Array, span: Span, block: number, visit: BlockVisitor): void {
  const end = span.at + span.length
  for (let from = span.at; from < end; from += block) {
    const to = Math.min(from + block, end)
    visit(from, to, largestOf(values, from, to))
  }
}
