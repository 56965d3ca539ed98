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
 * its bits depend neither on `count` nor on the row's neighbours. Four or eight sums advance side by
 * side only because one alone would wait for its own last addition.
 */
export function matmul(input: Rows, count: number, weight: MatrixReader, output: Rows): void {
  const { values: x, stride } = input
  const whole = weight.rows - (weight.rows % readerRowsMax)
  for (let o = 0; o < whole; o += readerRowsMax) {
    const w = weight.load(o, readerRowsMax)
    let t = 0
    for (; t + 1 < count; t += 2) {
      dots2x4(x, input.at + t * stride, stride, weight, w)
      store(output, t, o, 0)
      store(output, t + 1, o, readerRowsMax)
    }
    if (t < count) {
      dots1x4(x, input.at + t * stride, weight, w)
      store(output, t, o, 0)
    }
  }
  for (let o = whole; o < weight.rows; o++) {
    const w = weight.load(o, 1)
    for (let t = 0; t < count; t++) {
      const sum = dot(x, input.at + t * stride, weight.values, w, weight.width)
      output.values[output.at + t * output.stride + o] = sum
    }
  }
}

/** Results of the latest `dots…`: four of the first row, then four of the second. */
const sums = new Float64Array(2 * readerRowsMax)

function store(output: Rows, t: number, o: number, from: number): void {
  const at = output.at + t * output.stride + o
  for (let i = 0; i < readerRowsMax; i++) output.values[at + i] = sums[from + i] ?? 0
}

function dots1x4(x: Float32Array, at: number, weight: MatrixReader, w: number): void {
  const { values, width } = weight
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
  sums[0] = sum0
  sums[1] = sum1
  sums[2] = sum2
  sums[3] = sum3
}

function dots2x4(
  x: Float32Array,
  at: number,
  stride: number,
  weight: MatrixReader,
  w: number,
): void {
  const { values, width } = weight
  let sum0 = 0
  let sum1 = 0
  let sum2 = 0
  let sum3 = 0
  let sum4 = 0
  let sum5 = 0
  let sum6 = 0
  let sum7 = 0
  for (let i = 0; i < width; i++) {
    const first = x[at + i] ?? 0
    const second = x[at + stride + i] ?? 0
    const w0 = values[w + i] ?? 0
    const w1 = values[w + width + i] ?? 0
    const w2 = values[w + 2 * width + i] ?? 0
    const w3 = values[w + 3 * width + i] ?? 0
    sum0 += first * w0
    sum1 += first * w1
    sum2 += first * w2
    sum3 += first * w3
    sum4 += second * w0
    sum5 += second * w1
    sum6 += second * w2
    sum7 += second * w3
  }
  sums[0] = sum0
  sums[1] = sum1
  sums[2] = sum2
  sums[3] = sum3
  sums[4] = sum4
  sums[5] = sum5
  sums[6] = sum6
  sums[7] = sum7
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
