import type { Device, DeviceFormats, DeviceMemory, DeviceName } from '../../device/device.ts'
import type { DeviceBuffer } from '../../device/tensor.ts'
import type { OpName, OpTable } from '../registry.ts'

/** A device that has another do everything: what changes one thing about a device starts from it. */
export abstract class PassingDevice implements Device {
  readonly name: DeviceName
  readonly formats: DeviceFormats
  protected readonly inner: Device

  constructor(inner: Device, formats: DeviceFormats = inner.formats) {
    this.name = inner.name
    this.formats = formats
    this.inner = inner
  }

  alloc(bytes: number, label: string): DeviceBuffer {
    return this.inner.alloc(bytes, label)
  }

  free(buffer: DeviceBuffer): void {
    this.inner.free(buffer)
  }

  write(buffer: DeviceBuffer, offset: number, bytes: Uint8Array): void {
    this.inner.write(buffer, offset, bytes)
  }

  read(buffer: DeviceBuffer, offset: number, into: Uint8Array): void {
    this.inner.read(buffer, offset, into)
  }

  abstract run<Op extends OpName>(op: Op, args: OpTable[Op]): void

  synchronise(): void {
    this.inner.synchronise()
  }

  memory(): DeviceMemory {
    return this.inner.memory()
  }

  close(): void {
    this.inner.close()
  }
}
