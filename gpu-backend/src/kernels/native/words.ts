import type { DType, LinearWeight, Tensor } from '../../device/tensor.ts'

/** Element types by the numbers `op.h` knows them by. */
const dtypeNumbers: Readonly<Record<DType, number>> = {
  f32: 0,
  bf16: 1,
  i32: 2,
  i64: 3,
  f8e4m3: 4,
  e8m0: 5,
  fp4: 6,
  u8: 7,
}

const firstWords = 1024

/**
 * Ops and their arguments as the addon reads them: one number a word, `[op, number of argument
 * words, arguments…]`. Numbers are doubles, so that sizes and offsets up to 2^53 and parameters like
 * an epsilon take one word each.
 */
export class WordList {
  readonly #isPacked: (weight: LinearWeight) => boolean
  #words = new Float64Array(firstWords)
  #count = 0
  #opAt = 0

  /** `isPacked` tells which weights lie in panels, which their kernels have to know. */
  constructor(isPacked: (weight: LinearWeight) => boolean) {
    this.#isPacked = isPacked
  }

  get words(): Float64Array {
    return this.#words
  }

  get count(): number {
    return this.#count
  }

  clear(): void {
    this.#count = 0
  }

  /** Begins an op; its arguments follow, then `end`. */
  begin(op: number): void {
    this.#opAt = this.#count
    this.number(op)
    this.number(0)
  }

  /** Drops what has been written of the op that `begin` began. */
  abandon(): void {
    this.#count = this.#opAt
  }

  end(): void {
    this.#words[this.#opAt + 1] = this.#count - this.#opAt - 2
  }

  number(value: number): void {
    if (this.#count === this.#words.length) {
      const grown = new Float64Array(2 * this.#words.length)
      grown.set(this.#words)
      this.#words = grown
    }
    this.#words[this.#count++] = value
  }

  flag(value: boolean): void {
    this.number(value ? 1 : 0)
  }

  tensor({ buffer, byteOffset, dtype, shape }: Tensor): void {
    this.number(buffer)
    this.number(byteOffset)
    this.number(dtypeNumbers[dtype])
    this.number(shape.length)
    for (const extent of shape) this.number(extent)
  }

  /** A tensor that may be absent: `args.flag()`, then `args.tensor()`. */
  optional(tensor: Tensor | null): void {
    this.flag(tensor !== null)
    if (tensor !== null) this.tensor(tensor)
  }

  weight(linear: LinearWeight): void {
    this.tensor(linear.weight)
    this.optional(linear.scale)
    this.flag(this.#isPacked(linear))
  }
}

/** Writes one op's arguments, in the order its `.cc` reads them. */
export type PackOp<Args> = (words: WordList, args: Args) => void
