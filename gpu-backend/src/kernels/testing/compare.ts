import { allowance, type Estimate } from './estimate.ts'
import type { BlockFormat } from './oracle/formats.ts'
import { scalesWithin } from './oracle/rounding.ts'

// Comparisons by kind. Each gives null, or the first thing wrong in words that let one find it.

export interface Mismatch {
  /** Flat index into the output, where one element is to blame. */
  readonly index: number | null
  readonly expected: string
  readonly got: string
  readonly why: string
}

/** Indices, copies and casts: the same bytes. `elementBytes` says what the index counts. */
export function compareBits(
  got: Uint8Array,
  expected: Uint8Array,
  elementBytes: number,
): Mismatch | null {
  if (Buffer.compare(got, expected) === 0) return null
  const wrong = expected.findIndex((byte, i) => byte !== got[i])
  const index = Math.floor(wrong / elementBytes)
  const hex = (bytes: Uint8Array): string => {
    const element = [...bytes.subarray(index * elementBytes, (index + 1) * elementBytes)]
    return `0x${element
      .map((byte) => byte.toString(16).padStart(2, '0'))
      .toReversed()
      .join('')}`
  }
  let count = 0
  for (const [i, byte] of expected.entries()) if (byte !== got[i]) count++
  const why = `${count} of ${expected.length} bytes differ`
  return { index, expected: hex(expected), got: hex(got), why }
}

/** Below this a device may flush to zero, or round as its subnormals do. */
const smallest = 2 ** -120

/**
 * Reductions: NaN and infinity first, then every value within its allowance, then the normalised
 * square error of all together within what independent errors add up to. `storage` is the relative
 * error of writing a value down.
 */
export function compareReals(
  got: Float64Array,
  expected: Estimate,
  storage: number,
): Mismatch | null {
  return (
    findNonFinite(got, expected.value) ??
    findOutside(got, expected, storage) ??
    compareSquares(got, expected, storage)
  )
}

function findNonFinite(got: Float64Array, expected: Float64Array): Mismatch | null {
  const wrong = got.findIndex((value, i) => !Number.isFinite(value) && Number.isFinite(expected[i]))
  if (wrong < 0) return null
  const count = got.reduce((sum, value) => sum + (Number.isFinite(value) ? 0 : 1), 0)
  return mismatch(wrong, expected, got, `${count} of ${got.length} values are no numbers`)
}

function findOutside(got: Float64Array, expected: Estimate, storage: number): Mismatch | null {
  const { index, used } = boundUsed(got, expected, storage)
  if (used <= 1) return null
  const outside = errorsUsed(got, expected, storage).filter((share) => share > 1).length
  const why =
    `${outside} of ${got.length} values are outside their bound, this one ${used.toPrecision(3)} ` +
    `times; normalised square error ${squares(got, expected.value).toExponential(2)}`
  return mismatch(index, expected.value, got, why)
}

/** The largest error in units of what was allowed there: how tight a bound is, and for whom. */
export function boundUsed(
  got: Float64Array,
  expected: Estimate,
  storage: number,
): { readonly index: number; readonly used: number } {
  let [index, used] = [0, 0]
  for (const [i, share] of errorsUsed(got, expected, storage).entries()) {
    if (share > used) [index, used] = [i, share]
  }
  return { index, used }
}

function errorsUsed(got: Float64Array, expected: Estimate, storage: number): Float64Array {
  return expected.value.map((value, i) => {
    const allowed = allowance(expected, i) + storage * Math.abs(value) + smallest
    return Math.abs((got[i] ?? 0) - value) / allowed
  })
}

/**
 * The mean square of N independent errors stays below its expectation times (1 + 6/√N)². Errors
 * that values share are in `certain`, which is a bound for each and so for their mean.
 */
function compareSquares(got: Float64Array, expected: Estimate, storage: number): Mismatch | null {
  const slack = 1 + 6 / Math.sqrt(got.length)
  let found = 0
  let allowed = 0
  for (const [i, value] of expected.value.entries()) {
    found += ((got[i] ?? 0) - value) ** 2
    const certain = (expected.certain[i] ?? 0) + storage * Math.abs(value) + smallest
    allowed += (certain + slack * (expected.spread[i] ?? 0)) ** 2
  }
  if (found <= allowed) return null
  const power = expected.value.reduce((sum, value) => sum + value ** 2, 0)
  return {
    index: null,
    expected: `normalised square error ≤ ${(allowed / power).toExponential(2)}`,
    got: (found / power).toExponential(2),
    why: 'every value is within its bound, but together they are further off than chance allows',
  }
}

/** Σ (got − expected)² ÷ Σ expected². */
function squares(got: Float64Array, expected: Float64Array): number {
  let [error, power] = [0, 0]
  for (const [i, value] of expected.entries()) {
    error += ((got[i] ?? 0) - value) ** 2
    power += value ** 2
  }
  return error / power
}

/**
 * Values rounded in blocks of a format, `expected` being what was rounded. A value may land on a
 * neighbouring code only where a boundary lies within its allowance, and a block may have another
 * scale only where its largest magnitude can lie on the other side of a power of two; then all of
 * the block has that scale. So for exact inputs this is equality. A zero's sign is not looked at.
 */
export function compareBlocks(
  got: Float64Array,
  expected: Estimate,
  format: BlockFormat,
): Mismatch | null {
  const nonFinite = findNonFinite(got, expected.value)
  if (nonFinite !== null) return nonFinite
  for (let from = 0; from < got.length; from += format.block) {
    const to = Math.min(from + format.block, got.length)
    const refusals = scalesWithin(expected, from, to, format).map((scale) =>
      findOffGrid(got, expected, { from, to, scale, format }),
    )
    if (refusals.includes(null)) continue
    return refusals[0] ?? null
  }
  return null
}

interface Grid {
  readonly from: number
  readonly to: number
  readonly scale: number
  readonly format: BlockFormat
}

function findOffGrid(
  got: Float64Array,
  expected: Estimate,
  { from, to, scale, format }: Grid,
): Mismatch | null {
  const onGrid = (value: number): number => format.round(value / scale) * scale
  for (let i = from; i < to; i++) {
    const value = expected.value[i] ?? 0
    const [low, high] = [
      onGrid(value - allowance(expected, i)),
      onGrid(value + allowance(expected, i)),
    ]
    const found = got[i] ?? 0
    if (found >= low && found <= high && onGrid(found) === found) continue
    const range = low === high ? `${low}` : `${low} or up to ${high}`
    const why = `${value} rounds to ${format.name} under scale ${scale}`
    return { index: i, expected: range, got: `${found}`, why }
  }
  return null
}

/** A choice of the largest few of some scores, by index. */
export interface Choice {
  readonly scores: Estimate
  readonly count: number
  /** `descending`: best first. `ascending`: by index. */
  readonly order: 'descending' | 'ascending'
}

/**
 * The `count` largest; equal scores go to the lower index, and −0 equals 0. Another choice is
 * accepted only between scores whose allowances overlap, so for exact scores there is one answer.
 * `got` is one row's picks, without padding.
 */
export function comparePicks(got: readonly number[], choice: Choice): Mismatch | null {
  const { value } = choice.scores
  const order = [...value.keys()].toSorted((a, b) => (value[b] ?? 0) - (value[a] ?? 0) || a - b)
  const best = order.slice(0, choice.count)
  const expected = choice.order === 'ascending' ? best.toSorted((a, b) => a - b) : best
  if (expected.every((pick, i) => got[i] === pick) && got.length === expected.length) return null
  const refuse = (index: number | null, why: string): Mismatch => {
    return { index, expected: `[${expected.join(', ')}]`, got: `[${got.join(', ')}]`, why }
  }
  if (got.length !== expected.length) return refuse(null, `${choice.count} are to be picked`)
  const strange = got.findIndex((pick, i) => !(pick in value) || got.indexOf(pick) !== i)
  if (strange >= 0) return refuse(strange, 'a pick is no index, or stands there twice')
  if (choice.order === 'ascending') {
    const falling = got.findIndex((pick, i) => i > 0 && pick < (got[i - 1] ?? 0))
    if (falling >= 0) return refuse(falling, 'picks are in ascending order')
  } else {
    const rising = got.findIndex((pick, i) => i > 0 && !mayPrecede(choice, got[i - 1] ?? 0, pick))
    if (rising >= 0) return refuse(rising, 'the best comes first')
  }
  const picked = new Set(got)
  const left = order.filter((index) => !picked.has(index))
  for (const [index, pick] of got.entries()) {
    const better = left.find((other) => !mayPrecede(choice, pick, other))
    if (better === undefined) continue
    return refuse(index, `${better} scores ${value[better]} and ${pick} only ${value[pick]}`)
  }
  return null
}

/** Whether `a` can stand before `b` in an order from the largest down. */
function mayPrecede({ scores }: Choice, a: number, b: number): boolean {
  const lead = (scores.value[a] ?? 0) - (scores.value[b] ?? 0)
  const doubt = allowance(scores, a) + allowance(scores, b)
  return lead + doubt > 0 || (lead === 0 && a < b)
}

function mismatch(index: number, expected: Float64Array, got: Float64Array, why: string): Mismatch {
  return { index, expected: `${expected[index]}`, got: `${got[index]}`, why }
}
