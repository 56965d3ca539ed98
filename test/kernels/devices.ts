import { CpuDevice, type CpuOptions } from '../../gpu-backend/src/device/cpu.ts'
import { openFakeCuda } from '../../gpu-backend/src/device/cuda/testing/fake-device.ts'
import type { Device, DeviceName } from '../../gpu-backend/src/device/device.ts'
import { listDevices, openDevice } from '../../gpu-backend/src/device/open.ts'
import { nativeForTests } from '../../gpu-backend/src/kernels/native/testing/native-addon.ts'
import { Bfloat16Device } from '../../gpu-backend/src/kernels/testing/bfloat16-device.ts'
import {
  cudaNumerics,
  doubleSums,
  narrowInputs,
  type Numerics,
  singleSums,
} from '../../gpu-backend/src/kernels/testing/numerics.ts'

/**
 * A device the op suite is run on. A new one is added here: how it is opened, or why it is not
 * there, and the arithmetic it declares, from which every bound follows.
 */
export interface DeviceUnderTest {
  readonly label: string
  readonly name: DeviceName
  readonly numerics: Numerics
  /** Toy cases only: for variants of a device whose real sizes are covered by another. */
  readonly toyOnly: boolean
  readonly device: { readonly open: () => Promise<Device> } | { readonly missing: string }
}

const native = await nativeForTests()
const reports = await listDevices()
const onGpu = reports.some(({ name, available }) => name === 'cuda' && available)
const fakeCuda = await openFakeCuda()

export const devicesUnderTest: readonly DeviceUnderTest[] = [
  {
    label: 'reference',
    name: 'reference',
    numerics: doubleSums,
    toyOnly: false,
    device: { open: () => openDevice('reference') },
  },
  {
    label: 'reference in bfloat16',
    name: 'reference',
    numerics: doubleSums,
    toyOnly: true,
    device: { open: async () => new Bfloat16Device(await openDevice('reference')) },
  },
  cpu('cpu exact', { numerics: 'exact' }),
  cpu('cpu fast', { numerics: 'fast' }),
  cpu('cpu exact, AVX2', { numerics: 'exact', isa: 'avx2' }),
  cpu('cpu fast, AVX2', { numerics: 'fast', isa: 'avx2' }),
  cpu('cpu exact, portable', { numerics: 'exact', isa: 'portable' }),
  cpu('cpu fast, portable', { numerics: 'fast', isa: 'portable' }),
  {
    label: 'cuda',
    name: 'cuda',
    numerics: cudaNumerics,
    toyOnly: false,
    device: onGpu ? { open: () => openDevice('cuda') } : { missing: reasonFor('cuda') },
  },
  {
    label: 'cuda on the fake driver',
    name: 'cuda',
    numerics: cudaNumerics,
    toyOnly: true,
    device:
      'reason' in fakeCuda
        ? { missing: fakeCuda.reason }
        : { open: () => Promise.resolve(fakeCuda.open()) },
  },
]

function cpu(label: string, options: CpuOptions): DeviceUnderTest {
  return {
    label,
    name: 'cpu',
    numerics: options.numerics === 'fast' ? narrowInputs : singleSums,
    toyOnly: options.isa !== undefined,
    device:
      'addon' in native
        ? { open: () => Promise.resolve(new CpuDevice(native.addon, { threads: 2, ...options })) }
        : { missing: native.reason },
  }
}

function reasonFor(name: DeviceName): string {
  const report = reports.find((device) => device.name === name)
  return report !== undefined && !report.available ? report.reason : 'nothing opens it here yet'
}
