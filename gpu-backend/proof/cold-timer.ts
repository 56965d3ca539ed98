import type { CudaDevice } from '../src/device/cuda.ts'
import { GpuTimer } from '../src/device/cuda/timer.ts'
import { byteLength, type DType, type Tensor } from '../src/device/tensor.ts'
import { linear } from '../src/kernels/linear/linear.ts'

/** `CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE`. */
const cacheSizeAttribute = 38
/** So much is read that nothing from before is left, however the cache chooses what goes. */
const cachesRead = 4
const width = 4096
/** Clocks rise once there is work. */
const warmUpMs = 150
const warmUpRuns = 3

export interface RunLimits {
  readonly runs: number
  /** Slow work is not repeated beyond this, but for the first few times. */
  readonly secondsMax: number
}

/**
 * Times work by the GPU's clock, as it is in the middle of a model: weights come from memory, since
 * another weight was read in between, and the GPU has not been waiting for the host.
 */
export class ColdTimer {
  /** Bytes read in between. */
  readonly cacheBytes: number
  readonly #device: CudaDevice
  readonly #timer: GpuTimer
  readonly #forget: () => void

  constructor(device: CudaDevice) {
    const { driver, ordinal } = device.context
    this.#device = device
    this.#timer = new GpuTimer(device.context)
    this.cacheBytes = cachesRead * driver.int('cuDeviceGetAttribute', cacheSizeAttribute, ordinal)
    const rows = Math.ceil(this.cacheBytes / (2 * width))
    const { activations } = device.formats
    const input = zeros(device, activations, [1, width])
    const output = zeros(device, activations, [1, rows])
    const weight = zeros(device, 'bf16', [rows, width])
    const parts = [{ weight: { weight, scale: null }, output }]
    this.#forget = () => linear(device, { input, quantise: false, parts })
  }

  /** Milliseconds of each run, in order. */
  measure(work: () => void, { runs, secondsMax }: RunLimits): readonly number[] {
    const begun = performance.now()
    for (let i = 0; i < warmUpRuns || performance.now() < begun + warmUpMs; i++) {
      this.#forget()
      work()
      this.#device.synchronise()
    }
    const times: number[] = []
    const late = begun + 1000 * secondsMax
    while (times.length < runs && (times.length < warmUpRuns || performance.now() < late)) {
      this.#forget()
      times.push(this.#timer.measure(work))
    }
    return times
  }

  close(): void {
    this.#timer.close()
  }
}

/** The middle one, or the mean of the two. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const upper = sorted[sorted.length >> 1] ?? Number.NaN
  const lower = sorted[(sorted.length - 1) >> 1] ?? Number.NaN
  return (lower + upper) / 2
}

function zeros(device: CudaDevice, dtype: DType, shape: readonly number[]): Tensor {
  const bytes = byteLength(dtype, shape)
  const buffer = device.alloc(bytes, 'cold timer')
  device.write(buffer, 0, new Uint8Array(bytes))
  return { buffer, byteOffset: 0, dtype, shape }
}
