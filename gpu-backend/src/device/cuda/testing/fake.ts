import { fileURLToPath } from 'node:url'
import { load } from 'koffi'
import { ensureNativeAddon } from '../../../kernels/native/build.ts'
import { type Driver, openDriver } from '../driver.ts'
import { hostModule, type KernelModule } from '../images.ts'

/** What the fake machine is made of, and what goes wrong on it. */
export interface FakeOptions {
  readonly version?: number
  readonly devices?: number
  readonly architecture?: number
  readonly memoryBytes?: number
  /** This allocation fails, this kernel run is a fault; counted from 1. */
  readonly oomAt?: number
  readonly faultAt?: number
  /** 0: GPUs cannot reach each other's memory. */
  readonly peers?: 0 | 1
}

export interface FakeReport {
  readonly allocations: number
  readonly kernels: number
  readonly graphLaunches: number
  readonly peerCopies: number
  /** Held now, on all GPUs: buffers, their bytes, and handles of everything else. */
  readonly buffers: number
  readonly liveBytes: number
  readonly handles: number
  /** The last fault in words, or nothing. */
  readonly fault: string
}

const here = fileURLToPath(new URL('.', import.meta.url))
const reportBytes = 4096

/** Builds the fake driver's library where its source changed: its file, or why there is none. */
export function ensureFakeLibrary(): ReturnType<typeof ensureNativeAddon> {
  return ensureNativeAddon({ sourceDir: `${here}driver` })
}

/** The same, built to pass for a real driver: for programs that are to find nothing else. */
export function ensureDisguisedLibrary(): ReturnType<typeof ensureNativeAddon> {
  return ensureNativeAddon({ sourceDir: `${here}disguised` })
}

/** The driver that runs kernels on the host. One machine a process: `reset` makes it another. */
export class FakeMachine {
  readonly path: string
  readonly #reset: (options: string) => void
  readonly #report: (into: Uint8Array, bytes: number) => number

  private constructor(path: string) {
    this.path = path
    const library = load(path)
    this.#reset = library.func('void sluice_fake_reset(str)')
    this.#report = library.func('int32_t sluice_fake_report(void *, uint64_t)')
  }

  static async build(): Promise<FakeMachine | { readonly reason: string }> {
    const built = await ensureFakeLibrary()
    return 'path' in built ? new FakeMachine(built.path) : built
  }

  /** A new machine, and its driver opened. What was opened before is no longer known to it. */
  open(options: FakeOptions = {}): Promise<Driver> {
    this.reset(options)
    return openDriver(this.path)
  }

  reset(options: FakeOptions = {}): void {
    this.#reset(
      Object.entries(options)
        .map(([name, value]) => `${name}=${value}`)
        .join(),
    )
  }

  report(): FakeReport {
    const into = Buffer.alloc(reportBytes)
    const bytes = this.#report(into, reportBytes)
    return JSON.parse(into.toString('utf8', 0, bytes)) as FakeReport
  }
}

/** Hand-written kernels for tests of the driver's side. */
export async function sampleModule(): Promise<KernelModule> {
  const built = await ensureNativeAddon({ sourceDir: `${here}samples` })
  if ('reason' in built) throw new Error(built.reason)
  return hostModule('samples', built.path)
}
