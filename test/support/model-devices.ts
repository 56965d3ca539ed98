import { CpuDevice, type CpuOptions } from '../../gpu-backend/src/device/cpu.ts'
import type { Device } from '../../gpu-backend/src/device/device.ts'
import { ReferenceDevice } from '../../gpu-backend/src/device/reference.ts'
import { nativeForTests } from '../../gpu-backend/src/kernels/native/testing/native-addon.ts'

/** A device whole models are run on. A missing one is skipped, with its reason printed once. */
export interface ModelDevice {
  readonly label: string
  readonly missing: boolean
  open(): Device
}

const native = await nativeForTests()

/** A CPU device named by its options. */
export function cpuDevice(options: CpuOptions): ModelDevice {
  return {
    label: ['cpu', options.numerics, options.isa].filter((part) => part !== undefined).join(' '),
    missing: !('addon' in native),
    open: () => {
      if ('addon' in native) return new CpuDevice(native.addon, options)
      throw new Error(native.reason)
    },
  }
}

export const referenceDevice: ModelDevice = {
  label: 'reference',
  missing: false,
  open: () => new ReferenceDevice(),
}

/** Devices that keep fp32 throughout. */
export const exactDevices: readonly ModelDevice[] = [
  referenceDevice,
  cpuDevice({ numerics: 'exact' }),
  cpuDevice({ numerics: 'exact', isa: 'avx2' }),
  cpuDevice({ numerics: 'exact', isa: 'portable' }),
]

/** Inputs of FP4 weights in int8, of others in bfloat16. */
export const fastDevice: ModelDevice = cpuDevice({ numerics: 'fast' })

/** One of each arithmetic, on more threads than there may be cores. */
export const mainDevices: readonly ModelDevice[] = [
  referenceDevice,
  cpuDevice({ numerics: 'exact', threads: 3 }),
  cpuDevice({ numerics: 'fast', threads: 3 }),
]
