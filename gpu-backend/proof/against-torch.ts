import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { CudaDevice } from '../src/device/cuda.ts'
import { byteLength, type DType, type Tensor } from '../src/device/tensor.ts'
import { Random } from '../src/kernels/testing/random.ts'
import { encodeValues } from '../src/kernels/testing/encoding.ts'
import { linear } from '../src/kernels/linear/linear.ts'
import { ColdTimer, median } from './cold-timer.ts'
import type { ProductTime, ProofOptions, TorchResult } from './stages.ts'
import type { Subject } from './subject.ts'

export const productGate = 0.8

type Shape = readonly [rows: number, inputs: number, outputs: number]

/** Products of Flash: the widest projection out of the model's width, by rows. */
const flashShapes = [1, 32, 128, 4096].map((rows): Shape => [rows, 4096, 8192])
const toyShapes = [1, 32].map((rows): Shape => [rows, 256, 512])
const limits = { runs: 20, secondsMax: 5 }
/** Importing torch and waking the GPU takes most of it. */
const torchSecondsMax = 60

/** What `torch_reference.py` is asked for. */
export interface TorchOrder {
  readonly device: 'cuda' | 'cpu'
  readonly runs: number
  /** Bytes read before each product, so that its weight is not in the cache. */
  readonly cacheBytes: number
  readonly shapes: readonly Shape[]
}

/** What it answers. */
interface TorchTimes {
  readonly torch: string
  readonly milliseconds: readonly number[]
}

/** Times dense products here and in torch, one after the other on the same card. */
export function compareWithTorch(subject: Subject, { toy }: ProofOptions): TorchResult {
  if (subject.fake) throw new Error('a fake driver has no times')
  const shapes = toy ? toyShapes : flashShapes
  const device = subject.open()
  const timer = new ColdTimer(device)
  const ours = shapes.map((shape) => timeProduct(device, timer, shape))
  const { cacheBytes } = timer
  timer.close()
  device.close()
  const theirs = timeTorch({ device: 'cuda', runs: limits.runs, cacheBytes, shapes })
  if ('reason' in theirs) return theirs
  const products = shapes.map(([rows, inputs, outputs], i): ProductTime => {
    const milliseconds = ours[i] ?? Number.NaN
    const torchMilliseconds = theirs.milliseconds[i] ?? Number.NaN
    const ofTorch = torchMilliseconds / milliseconds
    return { rows, inputs, outputs, milliseconds, torchMilliseconds, ofTorch }
  })
  return { version: theirs.torch, products }
}

/** Torch's times, or why there are none. */
export function timeTorch(
  order: TorchOrder,
  python = 'python3',
): TorchTimes | { readonly reason: string } {
  const script = fileURLToPath(new URL('torch_reference.py', import.meta.url))
  const { error, status, stdout, stderr } = spawnSync(python, [script], {
    input: JSON.stringify(order),
    encoding: 'utf8',
    timeout: 1000 * torchSecondsMax,
    killSignal: 'SIGKILL',
  })
  if (error !== undefined && 'code' in error && error.code === 'ENOENT') {
    return { reason: `there is no ${python} on this machine` }
  }
  if (status === 0) return JSON.parse(stdout) as TorchTimes
  const last = (stderr ?? '').trim().split('\n').at(-1) ?? ''
  if (/No module named 'torch'/.test(last)) return { reason: `${python} has no torch here` }
  return { reason: `torch gave no times: ${last === '' ? 'it ran out of time' : last}` }
}

function timeProduct(device: CudaDevice, timer: ColdTimer, [rows, inputs, outputs]: Shape): number {
  const random = new Random(1)
  const values = Float64Array.from({ length: drawn }, () => random.normal())
  const tensor = (dtype: DType, shape: readonly number[]): Tensor => {
    const bytes = byteLength(dtype, shape)
    const buffer = device.alloc(bytes, 'product')
    device.write(buffer, 0, repeated(encodeValues(dtype, values), bytes))
    return { buffer, byteOffset: 0, dtype, shape }
  }
  const { activations } = device.formats
  const input = tensor(activations, [rows, inputs])
  const output = tensor(activations, [rows, outputs])
  const weight = tensor('bf16', [outputs, inputs])
  const parts = [{ weight: { weight, scale: null }, output }]
  const times = timer.measure(() => linear(device, { input, quantise: false, parts }), limits)
  for (const { buffer } of [input, output, weight]) device.free(buffer)
  return median(times)
}

/** Prime, so that no two rows are the same. */
const drawn = 65_521

/** `bytes` bytes of `pattern`, again and again. */
function repeated(pattern: Uint8Array, bytes: number): Uint8Array {
  const filled = new Uint8Array(bytes)
  for (let at = 0; at < bytes; at += pattern.length) {
    filled.set(pattern.subarray(0, bytes - at), at)
  }
  return filled
}
