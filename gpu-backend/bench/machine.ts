import { readFile } from 'node:fs/promises'
import { cpus, loadavg } from 'node:os'
import { CpuDevice } from '../src/device/cpu.ts'
import { loadNativeAddon, type NativeAddon } from '../src/kernels/native/addon.ts'
import { ensureNativeAddon } from '../src/kernels/native/build.ts'

/** The native kernels, built first where they are not; without a compiler there is nothing to measure. */
export async function openAddon(print: (line: string) => void): Promise<NativeAddon> {
  const build = await ensureNativeAddon({ onProgress: print })
  if ('reason' in build) throw new Error(`nothing to measure: ${build.reason}`)
  return loadNativeAddon(build.path)
}

/** What every figure depends on besides the code. */
export interface MachineConditions {
  readonly cpu: string
  readonly isa: string
  readonly threads: number
  /** The kernel's setting; `madvise` and `always` both give the device huge pages. */
  readonly hugePages: string
  /** Processes that wanted to run in the minute before, over what there is to run them. */
  readonly loadPerThread: number
}

export async function machineConditions(addon: NativeAddon): Promise<MachineConditions> {
  const device = new CpuDevice(addon)
  const { isa, threads } = device
  device.close()
  const pages = '/sys/kernel/mm/transparent_hugepage/enabled'
  const hugePages = await readFile(pages, 'utf8').catch(() => '')
  return {
    cpu: cpus()[0]?.model ?? 'unknown',
    isa,
    threads,
    hugePages: /\[(\w+)\]/.exec(hugePages)?.[1] ?? 'unknown',
    loadPerThread: Number(((loadavg()[0] ?? 0) / threads).toFixed(2)),
  }
}
