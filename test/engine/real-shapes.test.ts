import { readFileSync } from 'node:fs'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { parseModelConfig } from '#weights/layout/config.ts'
import { CpuDevice } from '../../gpu-backend/src/device/cpu.ts'
import type { Device } from '../../gpu-backend/src/device/device.ts'
import { ReferenceDevice } from '../../gpu-backend/src/device/reference.ts'
import { tensorBytes } from '../../gpu-backend/src/device/tensor.ts'
import { nativeForTests } from '../../gpu-backend/src/kernels/native/testing/native-addon.ts'
import {
  LoneLayer,
  loneLayerConfig,
  type LoneSegment,
} from '../../gpu-backend/src/model/testing/lone-layer.ts'
import { syntheticTensor } from '../../gpu-backend/src/model/testing/synthetic-weights.ts'
import type { LayerKind } from '../../gpu-backend/src/model/shape.ts'

// One layer of each kind in the true dimensions of V4-Flash and V4-Pro, on the CPU device against
// the reference. Weights are synthetic; every width, head and rank is the released one. Of the
// routed experts there are eight, six of which a token goes to: the op does not see the rest. The
// reference takes seconds a row, so it computes one row of the step, and all of that row: the CPU
// device computes it among others, and a row does not depend on its neighbours.

type Released = 'flash' | 'pro'

const expertCount = 8
/** The row compared. Two thousand entries in CSA, of which the indexer picks; sixty-four in HCA. */
const position = 8191
/** Rows of a second, fresh sequence: enough for the kernels that take many rows at once. */
const otherRows = 30

/**
 * `exact` loses 22-bit inputs and fp32 sums in blocks, some 2^-22 a linear, over half a dozen linears
 * in a row. `fast` rounds the inputs of FP4 linears to 127 steps of the largest in 32: the largest of
 * 32 normal values is about 2.3 deviations, so half a percent of a deviation is lost in each of two
 * linears one after the other, and the product of gate and up doubles the first.
 */
const exactBound = 5e-6
const fastBound = 2e-2

const native = await nativeForTests()

function config(released: Released, kind: LayerKind): ReturnType<typeof loneLayerConfig> {
  const file = new URL(`../vectors/config/v4-${released}.json`, import.meta.url)
  return loneLayerConfig(parseModelConfig(JSON.parse(readFileSync(file, 'utf8'))), {
    kind,
    expertCount,
  })
}

/** What one row left behind: its streams, the choices made for it, and its place in the cache. */
interface RowResult {
  readonly streams: Float32Array
  readonly experts: readonly number[]
  readonly selected: readonly number[]
  readonly cached: readonly Float32Array[]
}

/** The same bytes for every device, drawn once. */
function remembered(): typeof syntheticTensor {
  const made = new Map<string, Uint8Array<ArrayBuffer>>()
  return (spec) => {
    const bytes = made.get(spec.name) ?? syntheticTensor(spec)
    made.set(spec.name, bytes)
    return bytes
  }
}

interface RunOptions {
  readonly config: ReturnType<typeof config>
  /** Rows of the second sequence. */
  readonly others: number
  readonly makeTensor: typeof syntheticTensor
}

function run(device: Device, { config: layerOf, others, makeTensor }: RunOptions): RowResult {
  const sequences = others === 0 ? 1 : 2
  const contextMax = position + 1
  const layer = new LoneLayer(device, layerOf, {
    sequences,
    contextMax,
    quantise: false,
    makeTensor,
  })
  layer.fillCache()
  const [sampled, other] = layer.sequences
  const segments: LoneSegment[] = []
  if (sampled !== undefined) segments.push({ sequence: sampled, start: position, count: 1 })
  if (other !== undefined) segments.push({ sequence: other, start: 0, count: others })
  const [streams = new Float32Array()] = layer.streams(layer.step(segments))
  const picks = (name: 'experts' | 'selected', width: number): readonly number[] => [
    ...layer.picks(name, 1 + others, width).subarray(0, width),
  ]
  const { expertsPerToken, indexTopK } = layer.machine.shape
  const isCsa = layer.layer.shape.kind === 'csa'
  const result = {
    streams,
    experts: picks('experts', expertsPerToken),
    selected: isCsa ? picks('selected', indexTopK) : [],
    cached: writtenRows(layer),
  }
  layer.close()
  return result
}

/** The row of the sampled position in every ring, and the entry it completed in every page. */
function writtenRows(layer: LoneLayer): readonly Float32Array[] {
  const page = layer.sequences[0]?.pages.at(-1) ?? 0
  return layer.pooled().map(({ kind, tensor }) => {
    const [, rows = 0, width = 0] = tensor.shape
    const isPage = kind.label.endsWith('entries')
    const row = isPage ? page * rows + rows - 1 : position % rows
    const values = new Float32Array(width)
    const rowBytes = tensorBytes(tensor) / ((tensor.shape[0] ?? 1) * rows)
    const at = tensor.byteOffset + row * rowBytes
    layer.machine.device.read(tensor.buffer, at, new Uint8Array(values.buffer))
    return values
  })
}

/** ‖got − expected‖ ÷ ‖expected‖ */
function relativeError(got: Float32Array, expected: Float32Array): number {
  let [error, power] = [0, 0]
  for (const [i, value] of expected.entries()) {
    error += ((got[i] ?? Number.NaN) - value) ** 2
    power += value ** 2
  }
  return Math.sqrt(error / power)
}

describe.skipIf('reason' in native)('a layer in true dimensions on the CPU device', () => {
  let devices: Device[] = []
  beforeEach(() => {
    devices = []
  })
  afterEach(() => {
    for (const device of devices) device.close()
  })

  function open(numerics: 'exact' | 'fast' | 'reference'): Device {
    if ('reason' in native) throw new Error(native.reason)
    const device =
      numerics === 'reference'
        ? new ReferenceDevice()
        : new CpuDevice(native.addon, { numerics, threads: 2 })
    devices.push(device)
    return device
  }

  const layers = (['flash', 'pro'] as const).flatMap((released) =>
    (['swa', 'csa', 'hca'] as const).map((kind) => ({ released, kind })),
  )

  it.each(layers)('computes $released $kind as the reference does', ({ released, kind }) => {
    const setup = { config: config(released, kind), makeTensor: remembered() }
    const expected = run(open('reference'), { ...setup, others: 0 })
    expect(expected.streams.every(Number.isFinite)).toBe(true)

    const exact = run(open('exact'), { ...setup, others: otherRows })
    expect(exact.experts).toEqual(expected.experts)
    expect(exact.selected).toEqual(expected.selected)
    for (const [i, rows] of expected.cached.entries()) {
      expect(relativeError(exact.cached[i] ?? new Float32Array(), rows)).toBeLessThan(exactBound)
    }
    expect(relativeError(exact.streams, expected.streams)).toBeLessThan(exactBound)

    const fast = run(open('fast'), { ...setup, others: otherRows })
    expect(relativeError(fast.streams, expected.streams)).toBeLessThan(fastBound)
  })
})
