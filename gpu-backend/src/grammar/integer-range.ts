import type { GrammarBuilder } from './grammar.ts'

/** Numbers beyond this many digits are left out of ranges. */
const digitsMax = 15
const largest = 10n ** BigInt(digitsMax) - 1n

/** Decimal integers from `least` to `most`, both included; infinite: as far as `digitsMax` goes. */
export function addIntegersBetween(
  builder: GrammarBuilder,
  edge: { readonly from: number; readonly to: number },
  range: { readonly least: number; readonly most: number },
): void {
  const least = clamped(range.least)
  const most = clamped(range.most)
  if (most >= 0n) addMagnitudes(builder, edge, least > 0n ? least : 0n, most)
  if (least < 0n) {
    const minus = builder.literal(edge.from, '-')
    addMagnitudes(builder, { from: minus, to: edge.to }, most < 0n ? -most : 1n, -least)
  }
}

function clamped(bound: number): bigint {
  if (bound >= Number(largest)) return largest
  return bound <= -Number(largest) ? -largest : BigInt(bound)
}

function addMagnitudes(
  builder: GrammarBuilder,
  { from, to }: { readonly from: number; readonly to: number },
  least: bigint,
  most: bigint,
): void {
  const free = [to]
  for (let digits = String(least).length; digits <= String(most).length; digits++) {
    const first = digits === 1 ? 0n : 10n ** BigInt(digits - 1)
    const last = 10n ** BigInt(digits) - 1n
    const low = String(least > first ? least : first)
    const high = String(most < last ? most : last)
    if (least <= last && most >= first) addBetween(builder, { from, free, low, high })
  }
}

/** Digits of one length from `low` to `high`; `free[n]`: from there any n digits lead to the end. */
function addBetween(
  builder: GrammarBuilder,
  { from, free, low, high }: { from: number; free: number[]; low: string; high: string },
): void {
  if (low === '') {
    builder.skip(from, free[0] ?? from)
    return
  }
  const rest = low.length - 1
  const [a, b] = [low.charCodeAt(0), high.charCodeAt(0)]
  const go = (digit: number, below: string, above: string): void => {
    const next = builder.state()
    builder.bytes(from, digit, digit, next)
    addBetween(builder, { from: next, free, low: below, high: above })
  }
  const [lowRest, highRest] = [low.slice(1), high.slice(1)]
  if (a === b) return go(a, lowRest, highRest)
  const zeros = '0'.repeat(rest)
  const nines = '9'.repeat(rest)
  // The first and the last digit are bound by what follows, unless that may be anything.
  const middleLow = lowRest === zeros ? a : a + 1
  const middleHigh = highRest === nines ? b : b - 1
  if (middleLow > a) go(a, lowRest, nines)
  if (middleHigh < b) go(b, zeros, highRest)
  if (middleLow <= middleHigh)
    builder.bytes(from, middleLow, middleHigh, anyDigits(builder, free, rest))
}

function anyDigits(builder: GrammarBuilder, free: number[], count: number): number {
  for (let digits = free.length; digits <= count; digits++) {
    const state = builder.state()
    builder.bytes(state, 0x30, 0x39, free[digits - 1] ?? state)
    free.push(state)
  }
  return free[count] ?? 0
}
