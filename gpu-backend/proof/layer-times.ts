import { strict as assert } from 'node:assert'
import { readFile } from 'node:fs/promises'
import { parseModelConfig, type ModelConfig } from '#weights/layout/config.ts'
import { toyConfig } from '#weights/toy/config.ts'
import type { CudaDevice } from '../src/device/cuda.ts'
import type { BatchRow } from '../src/kernels/batch.ts'
import { manyRows } from '../src/kernels/cuda/matrix.ts'
import { recordedRowsMax } from '../src/model/deepseek.ts'
import { LoneLayer, loneLayerConfig, type LoneSegment } from '../src/model/testing/lone-layer.ts'
import { ColdTimer, median, type RunLimits } from './cold-timer.ts'
import { CostCountingDevice } from './cost-counting-device.ts'
import { readClocks } from './machine.ts'
import {
  type KindTimes,
  layerKinds,
  type LayerTime,
  type ProofOptions,
  type TimedKind,
} from './stages.ts'
import type { Subject } from './subject.ts'

/** Rates seen on an H200, of a copy and of a bf16 product; other cards are held to the same. */
const bytesPerSecond = 4.3e12
const flopsPerSecond = 790e12
/** Position each decoded row is at. */
const context = 4096

/** Sequences that each bring `count` rows from position `start` on. */
export interface Step {
  readonly name: string
  readonly sequences: number
  readonly start: number
  readonly count: number
  /** Share of the floor to be reached. */
  readonly gate: number
}

const steps: readonly Step[] = [
  { name: 'decode 1', sequences: 1, start: context - 1, count: 1, gate: 0.5 },
  { name: 'decode 32', sequences: 32, start: context - 1, count: 1, gate: 0.55 },
  { name: 'decode 128', sequences: 128, start: context - 1, count: 1, gate: 0.55 },
  { name: 'prefill 8192', sequences: 1, start: 0, count: 8192, gate: 0.25 },
]

/** Those in which `wgmma` has a part. */
const manyRowSteps: readonly Step[] = steps
  .filter(({ sequences, count }) => sequences * count >= manyRows)
  .map((step) => ({ ...step, name: `${step.name} by wgmma` }))

const toySteps: readonly Step[] = [
  { name: 'decode 1', sequences: 1, start: 31, count: 1, gate: 0.5 },
  { name: 'prefill 6', sequences: 1, start: 0, count: 6, gate: 0.25 },
]

const limits: RunLimits = { runs: 20, secondsMax: 3 }
const toyLimits: RunLimits = { runs: 3, secondsMax: 1 }

/** Times a kind of layer in all its steps. Never asked of the fake driver, whose times mean nothing. */
export async function timeKind(
  subject: Subject,
  name: string,
  { toy }: Pick<ProofOptions, 'toy'>,
): Promise<KindTimes> {
  if (subject.fake) throw new Error('a fake driver has no times')
  const [kindName, units] = name.split(' by ')
  const kind = layerKinds.find((known) => known === kindName)
  assert(kind !== undefined, `there is no kind of layers ${name}`)
  const released = toy ? parseModelConfig(toyConfig) : await flashConfig()
  const config = loneLayerConfig(released, { kind, expertCount: released.expertCount })
  const wgmma = units === 'wgmma'
  // Layers of a toy run have too few rows for it.
  const none = wgmma && (toy || subject.gpu.architecture !== 90)
  if (none) return { times: [], clocks: null, gigabytes: 0 }
  const device = subject.open(wgmma ? { products: 'wgmma' } : {})
  const timer = new ColdTimer(device)
  const measure = (work: () => void): readonly number[] =>
    timer.measure(work, toy ? toyLimits : limits)
  const chosen = wgmma ? manyRowSteps : toy ? toySteps : steps
  const times = timeLayer(device, config, { kind, steps: chosen, measure })
  const clocks = readClocks(subject.gpu.ordinal)
  const gigabytes = device.memory().peakBytes / 1e9
  timer.close()
  device.close()
  return { times, clocks, gigabytes }
}

async function flashConfig(): Promise<ModelConfig> {
  const file = new URL('../../test/vectors/config/v4-flash.json', import.meta.url)
  return parseModelConfig(JSON.parse(await readFile(file, 'utf8')))
}

export interface TimeOptions {
  readonly kind: TimedKind
  readonly steps: readonly Step[]
  /** Milliseconds of what `work` launches, in several runs. */
  readonly measure: (work: () => void) => readonly number[]
}

/** Times one layer's steps, run as the model runs them, and works out what each needs at least. */
export function timeLayer(
  device: CudaDevice,
  config: ModelConfig,
  { kind, steps, measure }: TimeOptions,
): readonly LayerTime[] {
  const counting = new CostCountingDevice(device)
  const layer = new LoneLayer(counting, config, {
    sequences: Math.max(...steps.map(({ sequences }) => sequences)),
    contextMax: Math.max(...steps.map(({ start, count }) => start + count)),
    quantise: true,
    rows: 'compact',
  })
  layer.fillCache()
  return steps.map(({ name, sequences, start, count, gate }): LayerTime => {
    const segments = layer.sequences
      .slice(0, sequences)
      .map((sequence): LoneSegment => ({ sequence, start, count }))
    const rows = segments.flatMap(rowsOf)
    const run = layer.begin(segments)
    const { bytes, flops } = counting.count(rows, run)
    const floorMilliseconds = 1000 * Math.max(bytes / bytesPerSecond, flops / flopsPerSecond)
    const recorded = rows.length <= recordedRowsMax
    const times = measure(() => void (recorded ? device.replay(`${kind} ${name}`, run) : run()))
    const milliseconds = median(times)
    const ofFloor = floorMilliseconds / milliseconds
    return {
      kind,
      step: name,
      milliseconds,
      bestMilliseconds: Math.min(...times),
      runs: times.length,
      floorMilliseconds,
      ofFloor,
      gate,
      met: ofFloor >= gate,
    }
  })
}

function rowsOf({ sequence, start, count }: LoneSegment): readonly BatchRow[] {
  const end = start + count
  const { slot } = sequence
  return Array.from({ length: count }, (_, i) => ({ position: start + i, slot, start, end }))
}
