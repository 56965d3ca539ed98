import { strict as assert } from 'node:assert'

/** Prometheus' text format, version 0.0.4. */
export const PROMETHEUS_TYPE = 'text/plain; version=0.0.4; charset=utf-8'

type Labels = Readonly<Record<string, string>>

/** Values sorted into buckets by upper bound, as Prometheus wants them: cumulative when written. */
export class Histogram {
  readonly bounds: readonly number[]
  readonly #counts: number[]
  #sum = 0

  /** `bounds`: inclusive upper bounds, ascending. Larger values go into a last bucket of their own. */
  constructor(bounds: readonly number[]) {
    assert(
      bounds.every((bound, index) => index === 0 || bound > (bounds[index - 1] ?? bound)),
      'bounds ascend',
    )
    this.bounds = bounds
    this.#counts = [...bounds, 0].map(() => 0)
  }

  observe(value: number): void {
    const at = this.bounds.findIndex((bound) => value <= bound)
    const index = at < 0 ? this.bounds.length : at
    this.#counts[index] = (this.#counts[index] ?? 0) + 1
    this.#sum += value
  }

  get sum(): number {
    return this.#sum
  }

  /** How many values lie at or below each bound, and how many there are in all. */
  cumulative(): readonly number[] {
    let total = 0
    return this.#counts.map((count) => (total += count))
  }
}

/** Collects metrics as text, each with its help and type in front of its samples. */
export class PrometheusText {
  readonly #labels: Labels
  readonly #lines: string[] = []

  /** `labels`: what every sample carries. */
  constructor(labels: Labels) {
    this.#labels = labels
  }

  gauge(name: string, help: string, value: number): void {
    this.#head(name, help, 'gauge')
    this.#sample(name, {}, value)
  }

  counter(name: string, help: string, value: number): void {
    this.#head(name, help, 'counter')
    this.#sample(name, {}, value)
  }

  /** One sample for each value of a label. */
  counters(name: string, help: string, label: string, values: ReadonlyMap<string, number>): void {
    this.#head(name, help, 'counter')
    for (const [key, value] of values) this.#sample(name, { [label]: key }, value)
  }

  histogram(name: string, help: string, histogram: Histogram): void {
    this.#head(name, help, 'histogram')
    const cumulative = histogram.cumulative()
    cumulative.forEach((count, index) => {
      const bound = histogram.bounds[index]
      this.#sample(`${name}_bucket`, { le: bound === undefined ? '+Inf' : String(bound) }, count)
    })
    this.#sample(`${name}_sum`, {}, histogram.sum)
    this.#sample(`${name}_count`, {}, cumulative.at(-1) ?? 0)
  }

  toString(): string {
    return `${this.#lines.join('\n')}\n`
  }

  #head(name: string, help: string, type: string): void {
    this.#lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`)
  }

  #sample(name: string, labels: Labels, value: number): void {
    const all = Object.entries({ ...this.#labels, ...labels })
    const text = all.map(([key, each]) => `${key}="${escaped(each)}"`).join(',')
    this.#lines.push(`${name}${text === '' ? '' : `{${text}}`} ${value}`)
  }
}

function escaped(value: string): string {
  return value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')
}
