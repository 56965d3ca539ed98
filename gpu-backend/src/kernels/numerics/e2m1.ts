/** Values of the 16 e2m1 codes; bit 3 is the sign. */
export const e2m1Values: Float32Array = new Float32Array([
  0, 0.5, 1, 1.5, 2, 3, 4, 6, -0, -0.5, -1, -1.5, -2, -3, -4, -6,
])

/** The largest e2m1 value. */
export const e2m1Max = 6

/** The e2m1 value nearest to `value`, ties to the even code, clamped to ±6. Keeps zero's sign. */
export function roundE2m1(value: number): number {
  const magnitude = roundMagnitude(Math.abs(value))
  return value < 0 || Object.is(value, -0) ? -magnitude : magnitude
}

/** Each bound is the midpoint of two codes, and belongs to the even one: `<=` below, `<` above. */
function roundMagnitude(magnitude: number): number {
  if (magnitude <= 0.25) return 0
  if (magnitude < 0.75) return 0.5
  if (magnitude <= 1.25) return 1
  if (magnitude < 1.75) return 1.5
  if (magnitude <= 2.5) return 2
  if (magnitude < 3.5) return 3
  if (magnitude <= 5) return 4
  return 6
}
