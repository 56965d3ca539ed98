/** Pico-dollars (1e-12 USD) in a dollar. */
const PICO_PER_USD = 10n ** 12n
const USD_DECIMALS = 12
/** What fits SQLite's INTEGER with room for sums: a million dollars a posting. */
const USD_MAX = 1_000_000n

const USD_TEXT = /^(\d{1,7})(?:\.(\d{1,12}))?$/

/** A decimal number of dollars as pico-dollars; null when it is not written as one, or too large. */
export function parseUsd(text: string): bigint | null {
  const [, whole, fraction = ''] = USD_TEXT.exec(text) ?? []
  if (whole === undefined) return null
  const pico = BigInt(whole) * PICO_PER_USD + BigInt(fraction.padEnd(USD_DECIMALS, '0'))
  return pico <= USD_MAX * PICO_PER_USD ? pico : null
}

/** All of an amount as a decimal number of dollars, without trailing zeros: `0.00000028`, `-3`. */
export function formatUsd(pico: bigint): string {
  const sign = pico < 0n ? '-' : ''
  const digits = (pico < 0n ? -pico : pico).toString().padStart(USD_DECIMALS + 1, '0')
  const fraction = digits.slice(-USD_DECIMALS).replace(/0+$/, '')
  return `${sign}${digits.slice(0, -USD_DECIMALS)}${fraction === '' ? '' : `.${fraction}`}`
}

const PICO_PER_CENT = PICO_PER_USD / 100n

/** An amount for people, in whole cents, never more than there is: `12.34`, `-0.01`. */
export function formatCents(pico: bigint): string {
  const rest = ((pico % PICO_PER_CENT) + PICO_PER_CENT) % PICO_PER_CENT
  const cents = (pico - rest) / PICO_PER_CENT
  const digits = (cents < 0n ? -cents : cents).toString().padStart(3, '0')
  return `${cents < 0n ? '-' : ''}${digits.slice(0, -2)}.${digits.slice(-2)}`
}
