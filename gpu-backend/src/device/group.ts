import type { Device } from './device.ts'
import type { Tensor } from './tensor.ts'

/**
 * Devices of one machine that a model is split over. Each does its own work in the order it was given;
 * between two of them nothing is in any order but where they meet.
 */
export interface DeviceGroup {
  readonly devices: readonly Device[]
  /** A tensor of device `from` for ops of device `to` to read, as long as its buffer is there. */
  lend(tensor: Tensor, from: number, to: number): Tensor
  /** What devices are given from now on waits for what each of them was given before. */
  meet(): void
  /** `Device.replay` for a step of all of them. */
  replay?<T>(key: string, body: () => T): T
}
