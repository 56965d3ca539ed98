import { openToyCheckpoint } from '#weights/toy/open-toy.ts'
import { CpuDevice } from '../src/device/cpu.ts'
import type { Device } from '../src/device/device.ts'
import { ReferenceDevice } from '../src/device/reference.ts'
import type { NativeAddon } from '../src/kernels/native/addon.ts'
import { loadModel, type Model } from '../src/model/model.ts'
import { median, round3 } from './bench.ts'

/** The toy on one device, as the benches compare it. */
export interface ToyRun {
  readonly name: string
  readonly device: Device
  readonly model: Model
  readonly rates: number[]
}

/** The toy on the reference, and on the CPU device in both numerics with all threads and with one. */
export async function openToys(addon: NativeAddon): Promise<readonly ToyRun[]> {
  const devices: readonly (readonly [string, Device])[] = [
    ['reference', new ReferenceDevice()],
    ['cpu fast', new CpuDevice(addon, { numerics: 'fast' })],
    ['cpu fast, 1 thread', new CpuDevice(addon, { numerics: 'fast', threads: 1 })],
    ['cpu exact', new CpuDevice(addon, { numerics: 'exact' })],
  ]
  return Promise.all(
    devices.map(async ([name, device]): Promise<ToyRun> => {
      const model = await loadModel(await openToyCheckpoint(), device, {
        quantisation: 'off',
        cache: { sequencesMax: 32 },
      })
      return { name, device, model, rates: [] }
    }),
  )
}

export function closeToys(runs: readonly ToyRun[]): void {
  for (const { model, device } of runs) {
    model.close()
    device.close()
  }
}

/** Ids without a pattern that a cache or a hash layer could profit from. */
export function toyTokens(count: number, vocabSize: number): Int32Array {
  return Int32Array.from({ length: count }, (_, i) => (7 * i * i + 3 * i + 5) % vocabSize)
}

/** Prints each run's tokens a second, and gives its best over the reference's best. */
export function compareToys(
  runs: readonly ToyRun[],
  what: string,
  print: (line: string) => void,
): Record<string, number> {
  const [reference] = runs
  const ratios: Record<string, number> = {}
  for (const { name, rates } of runs) {
    const [middle, best] = [median(rates), Math.max(...rates)]
    const ratio = best / Math.max(...(reference?.rates ?? []))
    print(
      `${what}, ${name.padEnd(20)}${middle.toFixed(0).padStart(7)} tokens/s, best ` +
        `${best.toFixed(0).padStart(6)}, ${ratio.toFixed(1)} of the reference`,
    )
    if (name !== 'reference') ratios[`${what}, ${name}, of reference`] = round3(ratio)
  }
  return ratios
}
