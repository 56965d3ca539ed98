import { findKernelImages } from '../kernels/cuda/images.ts'
import { loadNativeAddon, type Numerics } from '../kernels/native/addon.ts'
import { ensureNativeAddon } from '../kernels/native/build.ts'
import { CpuDevice } from './cpu.ts'
import { CudaError } from './cuda/errors.ts'
import { findCuda } from './cuda/find.ts'
import type { GpuGroup } from './cuda/group.ts'
import { type Device, DeviceError, type DeviceName } from './device.ts'
import { ReferenceDevice } from './reference.ts'

/** Whether a device can be opened here. */
export type DeviceReport =
  | { readonly name: DeviceName; readonly available: true }
  | { readonly name: DeviceName; readonly available: false; readonly reason: string }

export interface OpenOptions {
  /** How the CPU device computes linears; absent: `exact`. */
  readonly numerics?: Numerics
  /** Receives lines for people: kernels are being compiled; why `auto` passed a device over. */
  readonly onNote?: (line: string) => void
}

/** A way to open a device, or why there is none. `fake`: it is there for tests of what uses it. */
type Found = { readonly open: () => Device; readonly fake?: boolean } | { readonly reason: string }

interface DeviceKind {
  readonly name: DeviceName
  readonly find: (options: OpenOptions) => Promise<Found>
}

/** Fastest first: `auto` takes the first one that is there. */
const kinds: readonly DeviceKind[] = [
  {
    name: 'cuda',
    find: ({ onNote }) => lookForCuda(onNote),
  },
  { name: 'cpu', find: findCpu },
  { name: 'reference', find: () => Promise.resolve({ open: () => new ReferenceDevice() }) },
]

function lookForCuda(onNote?: (line: string) => void): ReturnType<typeof findCuda> {
  return findCuda((driver) => findKernelImages(driver, onNote))
}

/** Compiles the native kernels where sources changed since the last time. */
async function findCpu({ numerics, onNote }: OpenOptions): Promise<Found> {
  const built = await ensureNativeAddon(onNote === undefined ? {} : { onProgress: onNote })
  if ('reason' in built) return built
  try {
    const addon = loadNativeAddon(built.path)
    return { open: () => new CpuDevice(addon, numerics === undefined ? {} : { numerics }) }
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error)
    return { reason: `the native kernels do not load: ${message}` }
  }
}

export const deviceNames: readonly DeviceName[] = kinds.map((kind) => kind.name)

export function isDeviceName(name: string): name is DeviceName {
  return deviceNames.some((known) => known === name)
}

/** Every device there could be, fastest first, and for each missing one the reason. */
export function listDevices(options: OpenOptions = {}): Promise<readonly DeviceReport[]> {
  return Promise.all(
    kinds.map(async ({ name, find }): Promise<DeviceReport> => {
      const found = await find(options)
      if ('open' in found) return { name, available: true }
      return { name, available: false, reason: found.reason }
    }),
  )
}

/**
 * Opens the named device, or with `auto` the fastest there is. Throws `DeviceError`
 * `device_unavailable` with the reason; `auto` passes over fakes and always ends at the reference.
 */
export async function openDevice(
  name: DeviceName | 'auto',
  options: OpenOptions = {},
): Promise<Device> {
  for (const kind of kinds) {
    if (name !== 'auto' && name !== kind.name) continue
    const found = await kind.find(options)
    if ('open' in found && (name !== 'auto' || found.fake !== true)) return found.open()
    const reason = 'open' in found ? 'its driver is a fake one' : found.reason
    if (name !== 'auto') throw new DeviceError('device_unavailable', name, reason)
    options.onNote?.(`device ${kind.name} is not here: ${reason}`)
  }
  throw new DeviceError('device_unavailable', 'reference', 'no device of that name exists')
}

/**
 * Opens GPUs of this machine, by the driver's numbers, as a group that can share a model. Throws
 * `DeviceError` `device_unavailable` with the reason.
 */
export async function openGpus(
  ordinals: readonly number[],
  onNote?: (line: string) => void,
): Promise<GpuGroup> {
  const found = await lookForCuda(onNote)
  if ('reason' in found) throw new DeviceError('device_unavailable', 'cuda', found.reason)
  try {
    return found.openGroup(ordinals)
  } catch (cause) {
    if (!(cause instanceof CudaError)) throw cause
    throw new DeviceError('device_unavailable', 'cuda', cause.message, { cause })
  }
}
