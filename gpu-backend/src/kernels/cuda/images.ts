import type { Driver } from '../../device/cuda/driver.ts'
import { hostModule, type KernelImages } from '../../device/cuda/images.ts'
import { ensureSimtLibrary } from '../native/build.ts'
import { architectures, readFatbins } from './fatbins.ts'
import { launchers } from './launchers.ts'

type Found = KernelImages | { readonly reason: string }

const formats = { activations: 'f32', keys: 'f32', indexKeys: 'f32', compactRows: true } as const

/** The kernels this driver can load, or why there are none. */
export function findKernelImages(
  driver: Driver,
  onProgress: (line: string) => void = () => undefined,
): Promise<Found> {
  return driver.isFake ? hostImages(onProgress) : gpuImages()
}

async function gpuImages(): Promise<Found> {
  const modules = await readFatbins()
  return 'reason' in modules ? modules : { modules, architectures, launchers, formats }
}

/** The kernels built for the host, which the fake driver runs under any architecture's name. */
async function hostImages(onProgress: (line: string) => void): Promise<Found> {
  const built = await ensureSimtLibrary({ onProgress })
  if ('reason' in built) return built
  const modules = [hostModule('simt', built.path)]
  return { modules, architectures: [{ atLeast: 0 }], launchers, formats }
}
