import { type Device, DeviceError, type DeviceName } from './device.ts'
import { ReferenceDevice } from './reference.ts'

/** Whether a device can be opened here. */
export type DeviceReport =
  | { readonly name: DeviceName; readonly available: true }
  | { readonly name: DeviceName; readonly available: false; readonly reason: string }

interface DeviceKind {
  readonly name: DeviceName
  /** Why it cannot be opened here, or null. */
  missing(): Promise<string | null>
  open(): Promise<Device>
}

function notBuilt(name: DeviceName, what: string): DeviceKind {
  const reason = `this build has no ${what}`
  return {
    name,
    missing: () => Promise.resolve(reason),
    open: () => Promise.reject(new DeviceError('device_unavailable', name, reason)),
  }
}

/** Fastest first: `auto` takes the first one that is there. */
const kinds: readonly DeviceKind[] = [
  notBuilt('cuda', 'CUDA device'),
  notBuilt('cpu', 'native CPU device'),
  {
    name: 'reference',
    missing: () => Promise.resolve(null),
    open: () => Promise.resolve(new ReferenceDevice()),
  },
]

export const deviceNames: readonly DeviceName[] = kinds.map((kind) => kind.name)

export function isDeviceName(name: string): name is DeviceName {
  return deviceNames.some((known) => known === name)
}

/** Every device there could be, fastest first, and for each missing one the reason. */
export function listDevices(): Promise<readonly DeviceReport[]> {
  return Promise.all(
    kinds.map(async (kind): Promise<DeviceReport> => {
      const { name } = kind
      const reason = await kind.missing()
      return reason === null ? { name, available: true } : { name, available: false, reason }
    }),
  )
}

/**
 * Opens the named device, or with `auto` the fastest there is. Throws `DeviceError`
 * `device_unavailable` with the reason; `auto` always ends at the reference device.
 */
export async function openDevice(name: DeviceName | 'auto'): Promise<Device> {
  for (const kind of kinds) {
    if (name !== 'auto' && name !== kind.name) continue
    const reason = await kind.missing()
    if (reason === null) return kind.open()
    if (name !== 'auto') throw new DeviceError('device_unavailable', name, reason)
  }
  throw new DeviceError('device_unavailable', 'reference', 'no device of that name exists')
}
