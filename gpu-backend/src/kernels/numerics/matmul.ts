/** Rows of a weight matrix in fp32, decoded when asked for. */
export interface MatrixReader {
  readonly rows: number
  readonly width: number
  readonly values: Float32Array
  /** Makes `count` rows from `first` on readable; gives where in `values` the first begins. */
  load(first: number, count: number): number
}

/** How many rows `load` is asked for at once at most. */
export const readerRowsMax = 4

export interface Rows {
  readonly values: Float32Array
  readonly at: number
  /** From one row's first element to the next one's. */
  readonly stride: number
}

/**
 * output[t][o] = Σ_i input[t][i] · weight[o][i]. Each sum runs over i in order in one double, so
 * its bits depend neither on `count` nor on the row's neighbours. Four sums advance side by side
 * only because one alone would wait for its own last addition.
 */
export function matmul(input: Rows, count: number, weight: MatrixReader, output: Rows): void {
  const whole = weight.rows - (weight.rows % readerRowsMax)
  for (let o = 0; o < whole; o += readerRowsMax) {
    const w = weight.load(o, readerRowsMax)
    for (let t = 0; t < count; t++) {
      fourDots(input, t, weight, w, output, o)
    }
  }
  for (let o = whole; o < weight.rows; o++) {
    const w = weight.load(o, 1)
    for (let t = 0; t < count; t++) {
      const sum = dot(input.values, input.at + t * input.stride, weight.values, w, weight.width)
      output.values[output.at + t * output.stride + o] = sum
    }
  }
}

function fourDots(
  input: Rows,
  t: number,
  weight: MatrixReader,
  w: number,
  output: Rows,
  o: number,
): void {
  const { values, width } = weight
  const x = input.values
  const at = input.at + t * input.stride
  let sum0 = 0
  let sum1 = 0
  let sum2 = 0
  let sum3 = 0
  for (let i = 0; i < width; i++) {
    const value = x[at + i] ?? 0
    sum0 += value * (values[w + i] ?? 0)
    sum1 += value * (values[w + width + i] ?? 0)
    sum2 += value * (values[w + 2 * width + i] ?? 0)
    sum3 += value * (values[w + 3 * width + i] ?? 0)
  }
  const out = output.at + t * output.stride + o
  output.values[out] = sum0
  output.values[out + 1] = sum1
  output.values[out + 2] = sum2
  output.values[out + 3] = sum3
}

/** Σ_i a[at + i] · b[bt + i] over `length` elements, in order, in double precision. */
export function dot(
  a: Float32Array,
  at: number,
  b: Float32Array,
  bt: number,
  length: number,
): number {
  let sum = 0
  for (let i = 0; i < length; i++) sum += (a[at + i] ?? 0) * (b[bt + i] ?? 0)
  return sum
}
