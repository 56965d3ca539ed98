import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { CpuDevice } from '../src/device/cpu.ts'
import type { NativeAddon, Numerics } from '../src/kernels/native/addon.ts'
import { type Bench, median, round3, timed } from './bench.ts'
import { LinearCase, size, workingSet, workingSetBytes } from './linear-case.ts'
import { machineConditions, openAddon } from './machine.ts'
import type { Format } from './weights.ts'
import { Yardsticks } from './yardsticks.ts'

/** Slices of each case. The best of them is what other processes disturbed least. */
const rounds = 40
/** Long enough for the scheduler to have taken and given back the core many times. */
const contestedSeconds = 2

/** What is measured: with the int8 and bfloat16 inputs of `fast`, and with those of `exact`. */
const plans: Readonly<Record<Numerics, readonly (readonly [Format, readonly number[]])[]>> = {
  fast: [
    ['fp4', [1, 8, 64, 512]],
    ['f8e4m3', [1, 8, 64]],
    ['bf16', [1, 64]],
  ],
  exact: [
    ['fp4', [1, 64]],
    ['f8e4m3', [1, 64]],
  ],
}

/** `npm run bench -- kernels`: linears beside what this machine reads and multiplies at most. */
export const kernelsBench: Bench = async (print) => {
  const addon = await openAddon(print)
  const machine = await machineConditions(addon)
  const conditions = { ...machine, shape: `${size}×${size}`, workingSetBytes, rounds }
  for (const [key, value] of Object.entries(conditions)) print(`${key}: ${value}`)
  const ratios: Record<string, number> = {}
  for (const threads of new Set([1, machine.threads])) {
    for (const numerics of ['fast', 'exact'] as const) {
      Object.assign(ratios, await measure(addon, threads, numerics, print))
    }
  }
  return { conditions, ratios }
}

async function measure(
  addon: NativeAddon,
  threads: number,
  numerics: Numerics,
  print: (line: string) => void,
): Promise<Record<string, number>> {
  const device = new CpuDevice(addon, { threads, numerics })
  const yardsticks = new Yardsticks(addon, threads)
  const cases = plans[numerics].flatMap(([format, rows]) => {
    const weights = workingSet(device, format)
    return rows.map((count) => new LinearCase(device, weights, format, count))
  })
  const results = cases.map((each) => new Result(each))
  for (let round = 0; round < rounds; round++) {
    for (const result of results) result.take(yardsticks)
  }
  const label = `${numerics}, ${threads === 1 ? '1 thread' : `${threads} threads`}`
  const { read, dots } = yardsticks.best
  print(
    `\n${label}: read ${(read / 1e9).toFixed(1)} GB/s, int8 dot ${(dots / 1e9).toFixed(0)} GMAC/s`,
  )
  print('              GB/s   of read  (median)   GFLOP/s  of int8 dot  (median)')
  for (const result of results) print(result.describe(yardsticks.best))
  const ratios: Record<string, number> = {}
  for (const result of results) {
    ratios[`${label}: ${result.ratioName}`] = round3(result.ratio(yardsticks.best))
  }
  const [first] = cases
  if (threads > 1 && numerics === 'fast' && first !== undefined) {
    const contested = await contestedRatio(first)
    print(`${first.name}, a core taken by another process: ${contested.toFixed(2)} of undisturbed`)
    ratios[`${label}: ${first.name}, a core taken, of undisturbed`] = round3(contested)
  }
  yardsticks.close()
  device.close()
  return ratios
}

type Best = Yardsticks['best']

/** One case's slices, each beside yardsticks taken right before it. */
class Result {
  readonly #case: LinearCase
  readonly #ofRead: number[] = []
  readonly #ofDots: number[] = []
  #seconds = Infinity

  constructor(measured: LinearCase) {
    this.#case = measured
  }

  take(yardsticks: Yardsticks): void {
    const readRate = yardsticks.readRate()
    const dotRate = yardsticks.dotRate()
    const seconds = this.#case.slice()
    this.#seconds = Math.min(this.#seconds, seconds)
    this.#ofRead.push(this.#case.bytes / seconds / readRate)
    this.#ofDots.push(this.#case.multiplications / seconds / dotRate)
  }

  /** One row is held against memory, more against arithmetic. */
  get ratioName(): string {
    return `${this.#case.name}, of ${this.#case.rows === 1 ? 'read' : 'int8 dot'}`
  }

  /** The best slice over the best yardstick. */
  ratio(best: Best): number {
    const { rows, bytes, multiplications } = this.#case
    return rows === 1
      ? bytes / this.#seconds / best.read
      : multiplications / this.#seconds / best.dots
  }

  describe(best: Best): string {
    const bytesRate = this.#case.bytes / this.#seconds
    const multiplyRate = this.#case.multiplications / this.#seconds
    return [
      this.#case.name.padEnd(12),
      (bytesRate / 1e9).toFixed(1).padStart(6),
      (bytesRate / best.read).toFixed(2).padStart(10),
      `(${median(this.#ofRead).toFixed(2)})`.padStart(10),
      ((2 * multiplyRate) / 1e9).toFixed(0).padStart(10),
      (multiplyRate / best.dots).toFixed(2).padStart(13),
      `(${median(this.#ofDots).toFixed(2)})`.padStart(10),
    ].join('')
  }
}

/** Slices a second while another process computes, over slices a second without it. */
async function contestedRatio(run: LinearCase): Promise<number> {
  const rate = (): number => {
    let slices = 0
    const seconds = timed(() => {
      const end = performance.now() + contestedSeconds * 1000
      for (; performance.now() < end; slices++) run.slice()
    })
    return slices / seconds
  }
  const undisturbed = rate()
  const rival = spawn(process.execPath, ['-e', 'for (;;);'], { stdio: 'ignore' })
  await once(rival, 'spawn')
  try {
    return rate() / undisturbed
  } finally {
    rival.kill('SIGKILL')
  }
}
