import { CudaDevice, type CudaOptions } from '../src/device/cuda.ts'
import { type Driver, openDriver } from '../src/device/cuda/driver.ts'
import { CudaError } from '../src/device/cuda/errors.ts'
import { type Gpu, listGpus, requireKernels } from '../src/device/cuda/gpu.ts'
import type { KernelImages } from '../src/device/cuda/images.ts'
import { openFakeCuda } from '../src/device/cuda/testing/fake-device.ts'
import { findKernelImages } from '../src/kernels/cuda/images.ts'

/** What is to be proved: kernels on a GPU, or their stand-ins on the host. */
export interface Subject {
  readonly driver: Driver
  readonly gpu: Gpu
  readonly images: KernelImages
  /** The fake driver: everything is run, nothing is timed. */
  readonly fake: boolean
  open(options?: Pick<CudaOptions, 'products'>): CudaDevice
}

/** Throws `CudaError`, or an error that says which part is missing. */
export async function openSubject(fake: boolean): Promise<Subject> {
  if (fake) return openFake()
  const driver = await openDriver(process.env['SLUICE_CUDA_LIBRARY'])
  const [gpu] = listGpus(driver)
  const images = await findKernelImages(driver, (line) => console.log(line))
  if ('reason' in images) throw new CudaError('no_kernels', images.reason)
  if (gpu === undefined) throw new Error('the driver shows no GPU')
  requireKernels(gpu, images)
  const open: Subject['open'] = (options) => new CudaDevice(driver, images, options)
  return { driver, gpu, images, fake: driver.isFake, open }
}

export async function openFake(): Promise<Subject> {
  const fake = await openFakeCuda()
  if ('reason' in fake) throw new Error(fake.reason)
  const { driver, images } = fake
  const [gpu] = listGpus(driver)
  if (gpu === undefined) throw new Error('the fake driver shows no GPU')
  const open: Subject['open'] = (options) => new CudaDevice(driver, images, options)
  return { driver, gpu, images, fake: true, open }
}
