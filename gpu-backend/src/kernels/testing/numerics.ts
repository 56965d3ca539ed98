// What a device's arithmetic may lose. A device under test declares one of these; the cases turn it
// into bounds for each output, so that a device cannot pass by a bound meant for another.

/** How precisely an op's input meets a weight: each value is off by ≤ unit · max |its run of `run`|. */
export interface InputRounding {
  readonly run: number
  readonly unit: number
}

export interface Numerics {
  /** Unit roundoff of long sums. */
  readonly sum: number
  /** Unit roundoff of elementwise arithmetic, and of what an op keeps between its stages. */
  readonly step: number
  /** Error of exp, log1p, 1/sqrt, sine and cosine: relative, for sine and cosine absolute. */
  readonly elementary: number
  /** Inputs of a linear, by its weight's format. */
  readonly inputs: Readonly<Record<'f32' | 'bf16' | 'f8e4m3' | 'fp4', InputRounding>>
  /** Queries before they meet keys, in attention and in the index. */
  readonly queries: InputRounding
  /** Softmax weights before they meet values: relative. */
  readonly probabilities: number
}

/** 2^-p is the largest relative error of rounding to p significant bits. */
export const float32Unit: number = 2 ** -24
export const bfloat16Unit: number = 2 ** -8

const whole: InputRounding = { run: 1, unit: 0 }

/** Sums in double, everything kept between stages in fp32: the reference device. */
export const doubleSums: Numerics = {
  sum: 2 ** -53,
  step: float32Unit,
  elementary: 2 ** -51,
  inputs: { f32: whole, bf16: whole, f8e4m3: whole, fp4: whole },
  queries: whole,
  probabilities: 0,
}
