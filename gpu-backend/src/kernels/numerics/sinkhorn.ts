/**
 * Turns logits `[size, size]` (row = source stream) into the mixing matrix, in place: a softmax
 * over each row plus eps, one division by column sums, then `iterations − 1` rounds of rows and
 * columns. Columns come last, and eps is added to every sum.
 */
export function sinkhorn(
  matrix: Float64Array,
  size: number,
  iterations: number,
  eps: number,
): void {
  for (let row = 0; row < size; row++) softmaxRow(matrix, row * size, size, eps)
  divideBySums(matrix, size, { step: size, next: 1 }, eps)
  for (let round = 1; round < iterations; round++) {
    divideBySums(matrix, size, { step: 1, next: size }, eps)
    divideBySums(matrix, size, { step: size, next: 1 }, eps)
  }
}

function softmaxRow(matrix: Float64Array, at: number, size: number, eps: number): void {
  let largest = -Infinity
  for (let i = 0; i < size; i++) largest = Math.max(largest, matrix[at + i] ?? 0)
  let sum = 0
  for (let i = 0; i < size; i++) {
    const e = Math.exp((matrix[at + i] ?? 0) - largest)
    matrix[at + i] = e
    sum += e
  }
  for (let i = 0; i < size; i++) matrix[at + i] = (matrix[at + i] ?? 0) / sum + eps
}

/** `step` walks along one row or column, `next` leads to the following one. */
interface Walk {
  readonly step: number
  readonly next: number
}

function divideBySums(matrix: Float64Array, size: number, walk: Walk, eps: number): void {
  for (let line = 0; line < size; line++) {
    const at = line * walk.next
    let sum = eps
    for (let i = 0; i < size; i++) sum += matrix[at + i * walk.step] ?? 0
    for (let i = 0; i < size; i++) {
      matrix[at + i * walk.step] = (matrix[at + i * walk.step] ?? 0) / sum
    }
  }
}
