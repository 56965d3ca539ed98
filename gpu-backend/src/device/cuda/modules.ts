import type { CudaContext } from './context.ts'
import type { KernelImages } from './images.ts'

/** A kernel that can be launched. */
export interface LoadedKernel {
  readonly handle: bigint
  /** Dynamic shared memory it has been allowed so far. */
  sharedBytes: number
}

/** Dynamic shared memory a kernel may have without being allowed more. */
const sharedBytesFree = 48 * 1024
/** `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`. */
const maxDynamicShared = 8

/** All modules on one GPU, and their kernels by name. */
export class LoadedModules {
  readonly #context: CudaContext
  readonly #modules: bigint[] = []
  readonly #kernels = new Map<string, LoadedKernel>()

  constructor(context: CudaContext, images: KernelImages) {
    this.#context = context
    for (const { bytes } of images.modules) {
      // The driver reads text up to a zero byte and binaries by their own length.
      const image = Buffer.concat([bytes, Buffer.alloc(1)])
      this.#modules.push(context.handleOf('cuModuleLoadData', image))
    }
  }

  /** The kernel, allowed `sharedBytes` of dynamic shared memory; null where no module has it. */
  kernel(name: string, sharedBytes: number): LoadedKernel | null {
    const kernel = this.#kernels.get(name) ?? this.#find(name)
    if (kernel === null) return null
    if (sharedBytes > kernel.sharedBytes) {
      this.#context.call('cuFuncSetAttribute', kernel.handle, maxDynamicShared, sharedBytes)
      kernel.sharedBytes = sharedBytes
    }
    return kernel
  }

  #find(name: string): LoadedKernel | null {
    for (const module of this.#modules) {
      const handle = this.#context.functionOf(module, name)
      if (handle === null) continue
      const kernel = { handle, sharedBytes: sharedBytesFree }
      this.#kernels.set(name, kernel)
      return kernel
    }
    return null
  }

  close(): void {
    for (const module of this.#modules) this.#context.call('cuModuleUnload', module)
    this.#modules.length = 0
    this.#kernels.clear()
  }
}
