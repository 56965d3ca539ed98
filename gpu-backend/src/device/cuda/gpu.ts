import type { Driver } from './driver.ts'
import { CudaError } from './errors.ts'
import type { KernelImages } from './images.ts'
import type { GpuTraits } from './launch.ts'

/** A GPU as the driver describes it. */
export interface Gpu extends GpuTraits {
  readonly ordinal: number
  readonly name: string
  readonly totalBytes: number
}

/** `CUdevice_attribute` numbers. */
const attributes = { major: 75, minor: 76, multiprocessors: 16, sharedBytesMax: 97 } as const
const nameBytes = 256

/** Every GPU the driver shows, in its order. Throws `CudaError` `no_device` where there is none. */
export function listGpus(driver: Driver): readonly Gpu[] {
  const count = driver.int('cuDeviceGetCount')
  if (count === 0) throw new CudaError('no_device', 'the NVIDIA driver shows no GPU')
  return Array.from({ length: count }, (_, ordinal) => describeGpu(driver, ordinal))
}

function describeGpu(driver: Driver, ordinal: number): Gpu {
  const attribute = (number: number): number => driver.int('cuDeviceGetAttribute', number, ordinal)
  const name = Buffer.alloc(nameBytes)
  driver.call('cuDeviceGetName', name, nameBytes, ordinal)
  return {
    ordinal,
    name: name.toString('latin1', 0, name.indexOf(0)),
    totalBytes: Number(driver.handle('cuDeviceTotalMem_v2', ordinal)),
    architecture: 10 * attribute(attributes.major) + attribute(attributes.minor),
    multiprocessors: attribute(attributes.multiprocessors),
    sharedBytesMax: attribute(attributes.sharedBytesMax),
  }
}

/** Throws `CudaError` `no_kernels` where none of the modules runs on the GPU. */
export function requireKernels(gpu: Gpu, images: KernelImages): void {
  const { architecture } = gpu
  const runs = images.architectures.some((built) =>
    'exact' in built ? built.exact === architecture : built.atLeast <= architecture,
  )
  if (runs && images.modules.length > 0) return
  const built = images.architectures.map((arch) =>
    'exact' in arch ? `sm_${arch.exact}` : `sm_${arch.atLeast} and newer`,
  )
  throw new CudaError(
    'no_kernels',
    `${gpu.name} is sm_${architecture}; there are kernels for ${built.join(', ') || 'no GPU'}`,
  )
}
