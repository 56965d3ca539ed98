/** What a bench found. Ratios compare figures of one run, so they hold on a busy or slow machine. */
export interface BenchReport {
  /** Machine, sizes and settings that the ratios belong to. */
  readonly conditions: Readonly<Record<string, string | number | boolean>>
  readonly ratios: Readonly<Record<string, number>>
}

/** Measures, telling `print` about it line by line. */
export type Bench = (print: (line: string) => void) => Promise<BenchReport>

/** Seconds `work` takes. */
export function timed(work: () => void): number {
  const started = performance.now()
  work()
  return (performance.now() - started) / 1000
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  if (sorted.length === 0) return Number.NaN
  const upper = sorted[middle] ?? Number.NaN
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? Number.NaN)) / 2
}

/** As ratios are written down: finer than they repeat. */
export function round3(value: number): number {
  return Number(value.toFixed(3))
}
