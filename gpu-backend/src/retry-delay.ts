const firstMs = 250
const longestMs = 30_000

/**
 * How long to wait after a try has failed, and `failures` in a row before it, in milliseconds: between
 * half of the doubled delay and all of it, so that many backends do not call the edge at once.
 */
export function retryDelayMs(failures: number, random: () => number): number {
  const doubled = Math.min(longestMs, firstMs * 2 ** Math.min(failures, 16))
  return doubled * (0.5 + 0.5 * random())
}
