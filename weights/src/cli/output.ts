import { SingleBar } from 'cli-progress'

/** Where a run of the command line reads and writes. */
export interface Terminal {
  readonly env: Readonly<Record<string, string | undefined>>
  readonly stdout: NodeJS.WritableStream
  readonly stderr: NodeJS.WritableStream & { readonly isTTY?: boolean }
  readonly signal?: AbortSignal
}

/**
 * What a verb says. For people: lines on stdout. For machines: one JSON object on stdout, and the
 * lines on stderr.
 */
export class Output {
  readonly #terminal: Terminal
  readonly #json: boolean

  constructor(terminal: Terminal, json: boolean) {
    this.#terminal = terminal
    this.#json = json
  }

  line(text: string): void {
    const stream = this.#json ? this.#terminal.stderr : this.#terminal.stdout
    stream.write(`${text}\n`)
  }

  /** The outcome: `lines` for people or `value` for machines. */
  result(value: object, lines: readonly string[]): void {
    if (this.#json) this.#terminal.stdout.write(`${JSON.stringify(value)}\n`)
    else for (const text of lines) this.line(text)
  }

  /** A bar over bytes, on a terminal; elsewhere it says nothing. */
  progress(): ProgressBar {
    return new ProgressBar(this.#terminal.stderr)
  }
}

/** One bar after the other, one for each stage. */
export class ProgressBar {
  readonly #stream: Terminal['stderr']
  #bar: SingleBar | null = null
  #stage = ''

  constructor(stream: Terminal['stderr']) {
    this.#stream = stream
  }

  update(stage: string, doneBytes: number, totalBytes: number): void {
    if (this.#stream.isTTY !== true) return
    if (this.#stage !== stage) {
      this.stop()
      this.#stage = stage
      this.#bar = new SingleBar({
        stream: this.#stream,
        format: `${stage.padEnd(8)} [{bar}] {percentage}%  {done} of {size}  {eta_formatted} left`,
        hideCursor: true,
      })
      this.#bar.start(totalBytes, 0, { done: formatBytes(0), size: formatBytes(totalBytes) })
    }
    this.#bar?.update(doneBytes, { done: formatBytes(doneBytes) })
  }

  stop(): void {
    this.#bar?.stop()
    this.#bar = null
  }
}

/** Decimal units, as disks and networks are sold: `159.6 GB`. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB']
  const power = bytes < 1000 ? 0 : Math.min(Math.floor(Math.log10(bytes) / 3), units.length - 1)
  const value = bytes / 1000 ** power
  return `${power === 0 ? value : value.toFixed(1)} ${units[power] ?? ''}`
}

export function formatCount(count: number): string {
  return count.toLocaleString('en-US')
}
