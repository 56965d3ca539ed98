import { CpuDevice, type CpuOptions } from '../../../device/cpu.ts'
import { DeviceError } from '../../../device/device.ts'
import { allCases, opNames } from '../../testing/all-cases.ts'
import { Bench, type OpCase } from '../../testing/case.ts'
import { GuardedDevice, guardBytes } from '../../testing/guarded-device.ts'
import { singleSums } from '../../testing/numerics.ts'
import type { NativeAddon } from '../addon.ts'
import { Recording } from './recording.ts'

const seed = 1

/** Runs a case without judging it: that is the op suite's work. False where the op is not native. */
function exercise(opCase: OpCase, on: CpuDevice, prepareWeights: boolean): boolean {
  const device = new GuardedDevice(on)
  const bench = new Bench(opCase, { device, numerics: singleSums, seed, prepareWeights })
  try {
    opCase.prepare(bench).run()
    bench.outputBytes()
    return true
  } catch (error) {
    if (error instanceof DeviceError && error.code === 'unsupported_op') return false
    throw error
  } finally {
    bench.free()
  }
}

/** Every toy case of every op on each variant of the device, and how many that were. */
export function recordToyCases(
  on: NativeAddon,
  variants: readonly CpuOptions[],
): { readonly recording: Recording; readonly count: number } {
  const cases = opNames.flatMap((op) => allCases[op].filter(({ size }) => size === 'toy'))
  const recording = new Recording()
  const recorded = recording.over(on, { guardBytes })
  let count = 0
  for (const options of variants) {
    const device = new CpuDevice(recorded, options)
    for (const opCase of cases) {
      recording.label(`${opCase.op}, ${opCase.name}, ${JSON.stringify(options)}, seed ${seed}`)
      if (exercise(opCase, device, count % 2 === 0)) count++
    }
    device.close()
  }
  return { recording, count }
}
