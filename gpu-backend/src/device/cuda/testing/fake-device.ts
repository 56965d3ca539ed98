import { findKernelImages } from '../../../kernels/cuda/images.ts'
import { CudaDevice } from '../../cuda.ts'
import type { Driver } from '../driver.ts'
import type { KernelImages } from '../images.ts'
import { FakeMachine, type FakeOptions } from './fake.ts'

/** Enough for the widest case of the op suite. */
const memoryBytes = 2 ** 34

/** The kernels on the host, under the driver that runs them, on a machine of one's own making. */
export interface FakeCuda {
  readonly machine: FakeMachine
  readonly driver: Driver
  readonly images: KernelImages
  open(ordinal?: number): CudaDevice
}

/** Builds what is missing. One machine a process: what an earlier call opened is gone. */
export async function openFakeCuda(
  options: FakeOptions = {},
): Promise<FakeCuda | { readonly reason: string }> {
  const machine = await FakeMachine.build()
  if ('reason' in machine) return machine
  const driver = await machine.open({ memoryBytes, ...options })
  const images = await findKernelImages(driver, (line) => console.log(line))
  if ('reason' in images) return images
  return {
    machine,
    driver,
    images,
    open: (ordinal = 0) => new CudaDevice(driver, images, { ordinal }),
  }
}
