/** Adding it pushes every fraction out of a double's 53 bits, under the current rounding: to even. */
const shifter = 1.5 * 2 ** 52

/** The nearest integer, ties to even; for magnitudes below 2^51. −0 comes back as 0. */
export function roundEven(value: number): number {
  return value + shifter - shifter
}
