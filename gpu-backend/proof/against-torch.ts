import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { CudaDevice } from '../src/device/cuda.ts'
import { GpuTimer } from '../src/device/cuda/timer.ts'
import { byteLength, type DType, type Tensor } from '../src/device/tensor.ts'
import { linear } from '../src/kernels/linear/linear.ts'
import type { Subject } from './subject.ts'

/** One dense bf16 product, ours and torch's. */
export interface ProductTime {
  readonly rows: number
  readonly inputs: number
  readonly outputs: number
  readonly milliseconds: number
  readonly torchMilliseconds: number
  /** Torch's time by ours; at least `productGate`. */
  readonly ofTorch: number
}

export const productGate = 0.8

/** Products of Flash: the widest projection out of the model's width, by rows. */
const shapes = [1, 32, 128, 4096].map((rows) => [rows, 4096, 8192] as const)
const rounds = 20
const weightBytesInTurn = 256 * 2 ** 20

/** null with a reason where there is no torch to compare with. */
export type TorchResult =
  | { readonly version: string; readonly products: readonly ProductTime[] }
  | { readonly reason: string }

export function compareWithTorch(subject: Subject): TorchResult {
  if (subject.fake) throw new Error('a fake driver has no times')
  const script = fileURLToPath(new URL('torch_reference.py', import.meta.url))
  const { status, stdout } = spawnSync('python3', [script], {
    input: JSON.stringify(shapes),
    encoding: 'utf8',
  })
  if (status !== 0) return { reason: 'python3 with torch is not on this machine' }
  const torch = JSON.parse(stdout) as { torch: string; milliseconds: number[] }
  const device = subject.open()
  const products = shapes.map(([rows, inputs, outputs], i): ProductTime => {
    const milliseconds = timeProduct(device, rows, inputs, outputs)
    const torchMilliseconds = torch.milliseconds[i] ?? Number.NaN
    const ofTorch = torchMilliseconds / milliseconds
    return { rows, inputs, outputs, milliseconds, torchMilliseconds, ofTorch }
  })
  device.close()
  return { version: torch.torch, products }
}

function timeProduct(device: CudaDevice, rows: number, inputs: number, outputs: number): number {
  const tensor = (dtype: DType, shape: readonly number[]): Tensor => {
    const bytes = byteLength(dtype, shape)
    const buffer = device.alloc(bytes, 'product')
    // Zeros are as much work as anything.
    device.write(buffer, 0, new Uint8Array(bytes))
    return { buffer, byteOffset: 0, dtype, shape }
  }
  const { activations } = device.formats
  const input = tensor(activations, [rows, inputs])
  const output = tensor(activations, [rows, outputs])
  const copies = Math.max(1, Math.floor(weightBytesInTurn / (2 * inputs * outputs)))
  const weights = Array.from({ length: copies }, () => tensor('bf16', [outputs, inputs]))
  const timer = new GpuTimer(device.context)
  const times = Array.from({ length: rounds }, (_, turn) =>
    timer.measure(() => {
      const weight = weights[turn % copies]
      if (weight === undefined) return
      linear(device, {
        input,
        quantise: false,
        parts: [{ weight: { weight, scale: null }, output }],
      })
    }),
  )
  timer.close()
  for (const { buffer } of [input, output, ...weights]) device.free(buffer)
  return Math.min(...times)
}
