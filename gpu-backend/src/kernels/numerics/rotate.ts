/**
 * Rotates pairs (2i, 2i+1) of `values`, from `at` on, by ±position·f_i. The angle is the product
 * of two fp32 rounded to fp32: at a million tokens its spacing is 1/16 rad, and the model was
 * trained with that rounding.
 */
export function rotate(
  values: Float32Array,
  at: number,
  frequencies: Float32Array,
  position: number,
): void {
  for (let i = 0; i < frequencies.length; i++) {
    const angle = Math.fround(position * (frequencies[i] ?? 0))
    const cos = Math.cos(angle)
    const sin = Math.sin(angle)
    const a = values[at + 2 * i] ?? 0
    const b = values[at + 2 * i + 1] ?? 0
    values[at + 2 * i] = a * cos - b * sin
    values[at + 2 * i + 1] = a * sin + b * cos
  }
}
