import type { LaunchOp } from './launch.ts'
import type { OpTable } from '../../kernels/registry.ts'
import type { DeviceFormats } from '../device.ts'

/** Launchers by op; one that is missing is an op the device refuses as `unsupported_op`. */
export type LaunchTable = { readonly [Op in keyof OpTable]?: LaunchOp<OpTable[Op]> }

/** One module as `cuModuleLoadData` takes it. */
export interface KernelModule {
  readonly name: string
  /** A fatbin; for the fake driver a text naming the library of the same kernels built for the host. */
  readonly bytes: Uint8Array
}

/** What the fake driver loads: the library at `path`, of the same kernels built for the host. */
export function hostModule(name: string, path: string): KernelModule {
  return { name, bytes: Buffer.from(`sluice simt 1\n${path}\n`) }
}

/** All that a CUDA device runs. */
export interface KernelImages {
  readonly modules: readonly KernelModule[]
  /**
   * Compute capabilities the modules run on. `exact`: machine code for that one alone (sm_90a);
   * `atLeast`: PTX the driver can compile for that one and newer.
   */
  readonly architectures: readonly ({ readonly exact: number } | { readonly atLeast: number })[]
  readonly launchers: LaunchTable
  /** What the kernels keep their values in. */
  readonly formats: DeviceFormats
}
