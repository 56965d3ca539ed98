import { CudaDevice } from '../cuda.ts'
import { type Driver, openDriver } from './driver.ts'
import { CudaError } from './errors.ts'
import { listGpus, requireKernels } from './gpu.ts'
import { GpuGroup } from './group.ts'
import type { KernelImages } from './images.ts'

/** Kernels for a driver, or why there are none. */
type FindImages = (driver: Driver) => Promise<KernelImages | { readonly reason: string }>

/** Ways to open the first GPU, or some of them together, or why there is none. */
export type FoundCuda =
  | {
      readonly open: () => CudaDevice
      readonly openGroup: (ordinals: readonly number[]) => GpuGroup
      /** Kernels run on the host, which nobody wants who did not ask for it by name. */
      readonly fake: boolean
    }
  | { readonly reason: string }

/** Looks for a driver, a GPU, and kernels for it, in this order; the first that is missing is the reason. */
export async function findCuda(
  findImages: FindImages,
  library: string | undefined = process.env['SLUICE_CUDA_LIBRARY'],
): Promise<FoundCuda> {
  try {
    const driver = await openDriver(library)
    const [gpu] = listGpus(driver)
    const images = await findImages(driver)
    if ('reason' in images) return images
    if (gpu !== undefined) requireKernels(gpu, images)
    return {
      open: () => new CudaDevice(driver, images),
      openGroup: (ordinals) => new GpuGroup(driver, images, ordinals),
      fake: driver.isFake,
    }
  } catch (error) {
    if (error instanceof CudaError) return { reason: error.message }
    throw error
  }
}
