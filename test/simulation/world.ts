import { Random } from './random.ts'

/** What can go wrong on the way, as probabilities of one message or one call. */
export interface Faults {
  readonly loss: number
  readonly duplication: number
  readonly delayMsMax: number
  /** Of a call to an object: it dies before, within or after its transaction. */
  readonly crash: number
}

export const NO_FAULTS: Faults = { loss: 0, duplication: 0, delayMsMax: 5, crash: 0 }

interface Task {
  readonly atMs: number
  readonly order: number
  readonly run: () => void
}

/** Someone who can be away: frozen, restarting or dead. */
export interface Host {
  /** From when it runs again; Infinity when it is dead. */
  awakeFromMs: number
}

/**
 * Time, chance and the network. Everything that happens is a task at an instant; the order of tasks
 * follows from the seed alone.
 */
export class World {
  readonly random: Random
  readonly faults: Faults
  nowMs = 1_000_000
  readonly #heap: Task[] = []
  #order = 0

  constructor(seed: number, faults: Faults) {
    this.random = new Random(seed)
    this.faults = faults
  }

  after(delayMs: number, run: () => void): void {
    this.#push({ atMs: this.nowMs + Math.max(0, Math.ceil(delayMs)), order: this.#order++, run })
  }

  /** Runs `run` on `host` after a while: later if it is frozen then, never if it has died. */
  on(host: Host, delayMs: number, run: () => void): void {
    this.after(delayMs, () => {
      if (host.awakeFromMs === Infinity) return
      const lateMs = host.awakeFromMs - this.nowMs
      if (lateMs > 0) this.on(host, lateMs, run)
      else run()
    })
  }

  /** A message: lost, doubled, delayed, and so reordered. */
  send(to: Host, run: () => void): void {
    if (this.random.chance(this.faults.loss)) return
    const copies = this.random.chance(this.faults.duplication) ? 2 : 1
    for (let copy = 0; copy < copies; copy++) {
      this.on(to, this.random.between(1, this.faults.delayMsMax), run)
    }
  }

  runUntil(endMs: number): void {
    for (;;) {
      const next = this.#heap[0]
      if (next === undefined || next.atMs > endMs) break
      this.#pop()
      this.nowMs = Math.max(this.nowMs, next.atMs)
      next.run()
    }
    this.nowMs = endMs
  }

  #push(task: Task): void {
    const heap = this.#heap
    heap.push(task)
    for (let at = heap.length - 1; at > 0;) {
      const parent = (at - 1) >> 1
      if (!this.#swapIfEarlier(at, parent)) break
      at = parent
    }
  }

  #pop(): void {
    const heap = this.#heap
    const last = heap.pop()
    if (last === undefined || heap.length === 0) return
    heap[0] = last
    for (let at = 0; ;) {
      const [left, right] = [2 * at + 1, 2 * at + 2]
      const child = right < heap.length && earlier(heap[right], heap[left]) ? right : left
      if (child >= heap.length || !this.#swapIfEarlier(child, at)) break
      at = child
    }
  }

  #swapIfEarlier(child: number, parent: number): boolean {
    const heap = this.#heap
    const [a, b] = [heap[child], heap[parent]]
    if (a === undefined || b === undefined || !earlier(a, b)) return false
    heap[parent] = a
    heap[child] = b
    return true
  }
}

function earlier(a: Task | undefined, b: Task | undefined): boolean {
  if (a === undefined || b === undefined) return false
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order)
}
