import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { cpus } from 'node:os'
import { CpuDevice } from '../src/device/cpu.ts'
import { loadNativeAddon, type NativeAddon, type Numerics } from '../src/kernels/native/addon.ts'
import { ensureNativeAddon } from '../src/kernels/native/build.ts'
import { type Bench, type BenchReport, median, timed } from './bench.ts'
import { LinearCase, size, workingSet, workingSetBytes } from './linear-case.ts'
import type { Format } from './weights.ts'
import { Yardsticks } from './yardsticks.ts'

const rounds = 11
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
  const build = await ensureNativeAddon({ onProgress: print })
  if ('reason' in build) throw new Error(`nothing to measure: ${build.reason}`)
  const addon = loadNativeAddon(build.path)
  const conditions = await describeConditions(addon)
  for (const [key, value] of Object.entries(conditions)) print(`${key}: ${value}`)
  const ratios: Record<string, number> = {}
  for (const threads of new Set([1, Number(conditions['threads'])])) {
    for (const numerics of ['fast', 'exact'] as const) {
      Object.assign(ratios, await measure(addon, threads, numerics, print))
    }
  }
  return { conditions, ratios }
}

async function describeConditions(addon: NativeAddon): Promise<BenchReport['conditions']> {
  const device = new CpuDevice(addon)
  const { isa, threads } = device
  device.close()
  const pages = '/sys/kernel/mm/transparent_hugepage/enabled'
  const hugePages = await readFile(pages, 'utf8').catch(() => '')
  return {
    cpu: cpus()[0]?.model ?? 'unknown',
    isa,
    threads,
    hugePages: /\[(\w+)\]/.exec(hugePages)?.[1] ?? 'unknown',
    shape: `${size}×${size}`,
    workingSetBytes,
    rounds,
  }
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
  print(`\n${label}: ${yardsticks.describe()}`)
  print('              GB/s best  of read   GFLOP/s best  of int8 dot   (medians of ratios)')
  for (const result of results) print(result.describe())
  const ratios = Object.fromEntries(
    results.map((result) => [`${label}: ${result.ratioName}`, result.ratio]),
  )
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

/** One case's passes, each divided by the yardsticks taken right before it. */
class Result {
  readonly #case: LinearCase
  readonly #gigabytes: number[] = []
  readonly #gigaflops: number[] = []
  readonly #ofRead: number[] = []
  readonly #ofDots: number[] = []

  constructor(measured: LinearCase) {
    this.#case = measured
  }

  take(yardsticks: Yardsticks): void {
    const readRate = yardsticks.readRate()
    const dotRate = yardsticks.dotRate()
    const seconds = this.#case.pass()
    const bytesRate = this.#case.bytes / seconds
    const multiplyRate = this.#case.multiplications / seconds
    this.#gigabytes.push(bytesRate / 1e9)
    this.#gigaflops.push((2 * multiplyRate) / 1e9)
    this.#ofRead.push(bytesRate / readRate)
    this.#ofDots.push(multiplyRate / dotRate)
  }

  /** One row is held against memory, more against arithmetic. */
  get ratioName(): string {
    return `${this.#case.name}, of ${this.#case.rows === 1 ? 'read' : 'int8 dot'}`
  }

  get ratio(): number {
    return round3(median(this.#case.rows === 1 ? this.#ofRead : this.#ofDots))
  }

  describe(): string {
    return [
      this.#case.name.padEnd(14),
      Math.max(...this.#gigabytes)
        .toFixed(1)
        .padStart(9),
      median(this.#ofRead).toFixed(2).padStart(9),
      Math.max(...this.#gigaflops)
        .toFixed(0)
        .padStart(15),
      median(this.#ofDots).toFixed(2).padStart(13),
    ].join('')
  }
}

/** Passes a second while another process computes, over passes a second without it. */
async function contestedRatio(run: LinearCase): Promise<number> {
  const rate = (): number => {
    let passes = 0
    const seconds = timed(() => {
      const end = performance.now() + contestedSeconds * 1000
      for (; performance.now() < end; passes++) run.pass()
    })
    return passes / seconds
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

function round3(value: number): number {
  return Number(value.toFixed(3))
}
