/** 1 / (1 + e^-x), without overflow at either end. */
export function sigmoid(x: number): number {
  if (x >= 0) return 1 / (1 + Math.exp(-x))
  const e = Math.exp(x)
  return e / (1 + e)
}

/** sqrt(ln(1 + e^x)): the router's score. Stable for large |x|. */
export function sqrtSoftplus(x: number): number {
  return Math.sqrt(Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x))))
}
