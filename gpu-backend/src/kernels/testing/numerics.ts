// What a device's arithmetic may lose. A device under test declares one of these; the cases turn it
// into bounds for each output, so that a device cannot pass by a bound meant for another.

/** In what form an op's input meets a weight or a key. */
export type InputForm =
  /** As it is. */
  | { readonly as: 'given' }
  /** The nearest bfloat16. */
  | { readonly as: 'bfloat16' }
  /** Whole numbers under a common unit: off by ≤ unit · max |run| in each run of `run`. */
  | { readonly as: 'integers'; readonly run: number; readonly unit: number }

/** Sums are taken over runs of at most `run` terms, one after the other, and then over runs. */
export interface Sum {
  /** Unit roundoff of an addition. */
  readonly unit: number
  readonly run: number
}

export interface Numerics {
  /** Of linears, and of what they are made of. */
  readonly products: Sum
  /** Of linears of many rows rounded to FP8 with FP8 and FP4 weights, where those go another way. */
  readonly rounded?: Sum
  /** Of scores and of what they weigh, in attention and in the index. */
  readonly scores: Sum
  /** Everywhere else: norms, stream mixes, the router's gate, pooling. */
  readonly rows: Sum
  /** Unit roundoff of elementwise arithmetic, and of what an op keeps between its stages. */
  readonly step: number
  /** Error of exp, log1p, 1/sqrt, sine and cosine: relative, for sine and cosine absolute. */
  readonly elementary: number
  /** Inputs of a linear, by its weight's format. */
  readonly inputs: Readonly<Record<'f32' | 'bf16' | 'f8e4m3' | 'fp4', InputForm>>
  /** Queries before they meet keys, in attention and in the index. */
  readonly queries: InputForm
  /** Softmax weights before they meet values: relative. */
  readonly probabilities: number
}

/** 2^-p is the largest relative error of rounding to p significant bits. */
export const float32Unit: number = 2 ** -24
export const bfloat16Unit: number = 2 ** -8

/** So small that the order does not matter. */
const inDouble: Sum = { unit: 2 ** -53, run: 1 }

/** Also of the stream mixes and the gate, on every device: what they decide is never made narrower. */
export const asGiven: InputForm = { as: 'given' }

/** Sums in double, everything kept between stages in fp32: the reference device. */
export const doubleSums: Numerics = {
  products: inDouble,
  scores: inDouble,
  rows: inDouble,
  step: float32Unit,
  elementary: 2 ** -51,
  inputs: { f32: asGiven, bf16: asGiven, f8e4m3: asGiven, fp4: asGiven },
  queries: asGiven,
  probabilities: 0,
}

/**
 * Products in fp32 by blocks of 128, everything a row does with itself in double: native `exact`.
 * Against FP4, inputs are kept as integers of 22 bits per 32.
 */
export const singleSums: Numerics = {
  products: { unit: float32Unit, run: 128 },
  scores: { unit: float32Unit, run: 128 },
  rows: inDouble,
  step: float32Unit,
  elementary: 2 ** -22,
  inputs: {
    f32: asGiven,
    bf16: asGiven,
    f8e4m3: asGiven,
    fp4: { as: 'integers', run: 32, unit: 2 ** -22 },
  },
  queries: asGiven,
  probabilities: 0,
}

/**
 * Native `fast`: against FP4, int8 per 32, whose largest is 127 units, so half a unit is 1/254 of
 * it (and the unit's own rounding a little more); against FP8 and bf16, bfloat16.
 */
export const narrowInputs: Numerics = {
  ...singleSums,
  inputs: {
    f32: asGiven,
    bf16: { as: 'bfloat16' },
    f8e4m3: { as: 'bfloat16' },
    fp4: { as: 'integers', run: 32, unit: 1.0001 / 254 },
  },
}

/**
 * CUDA: linears, and attention over compact rows, on tensor cores, whose additions may be cut where fp32
 * rounds; a linear's in eight slices of the columns (of 16,384 at most). Everything else in fp32, a
 * thread's own terms one after the other. Inputs that are not rounded to FP8 meet weights as bfloat16,
 * but for fp32 weights; queries and softmax weights meet keys as bfloat16.
 */
export const cudaNumerics: Numerics = {
  products: { unit: 2 * float32Unit, run: 2048 },
  scores: { unit: 2 * float32Unit, run: 512 },
  rows: { unit: float32Unit, run: 256 },
  step: float32Unit,
  elementary: 2 ** -22,
  inputs: {
    f32: asGiven,
    bf16: { as: 'bfloat16' },
    f8e4m3: { as: 'bfloat16' },
    fp4: { as: 'bfloat16' },
  },
  queries: { as: 'bfloat16' },
  probabilities: bfloat16Unit,
}

/**
 * CUDA with `wgmma`: a unit of 128 columns is summed 32 at a time, each of 33 terms cut to 13 bits below
 * the largest (which is at most what has come together so far); units are added in fp32.
 */
export const wgmmaNumerics: Numerics = {
  ...cudaNumerics,
  rounded: { unit: 2 ** -13, run: 128 },
}

/** Rows from which on they are many. */
export const manyRows = 64
