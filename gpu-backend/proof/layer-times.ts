import { readFile } from 'node:fs/promises'
import { parseModelConfig, type ModelConfig } from '#weights/layout/config.ts'
import type { CudaDevice } from '../src/device/cuda.ts'
import { GpuTimer } from '../src/device/cuda/timer.ts'
import type { BatchRow } from '../src/kernels/batch.ts'
import { LoneLayer, loneLayerConfig, type LoneSegment } from '../src/model/testing/lone-layer.ts'
import type { LayerKind } from '../src/model/shape.ts'
import { CostCountingDevice } from './cost-counting-device.ts'
import type { Subject } from './subject.ts'

/** A whole layer of V4-Flash, all its widths and experts, in one step. */
export interface LayerTime {
  readonly kind: LayerKind
  readonly step: string
  /** The best of several runs, by the GPU's clock. */
  readonly milliseconds: number
  /** What memory or matrix units need at the rates below, whichever is longer. */
  readonly floorMilliseconds: number
  readonly ofFloor: number
  readonly gate: number
  readonly met: boolean
}

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

/** Times every kind of layer. Never asked of the fake driver, whose times would mean nothing. */
export async function timeLayers(subject: Subject): Promise<readonly LayerTime[]> {
  if (subject.fake) throw new Error('a fake driver has no times')
  const file = new URL('../../test/vectors/config/v4-flash.json', import.meta.url)
  const released = parseModelConfig(JSON.parse(await readFile(file, 'utf8')))
  const { expertCount } = released
  return (['swa', 'csa', 'hca'] as const).flatMap((kind) => {
    const device = subject.open()
    const timer = new GpuTimer(device.context)
    const measure = (work: () => void): number => timer.measure(work)
    const timed = timeLayer(device, loneLayerConfig(released, { kind, expertCount }), {
      kind,
      steps,
      rounds: 20,
      measure,
    })
    timer.close()
    device.close()
    return timed
  })
}

export interface TimeOptions {
  readonly kind: LayerKind
  readonly steps: readonly Step[]
  /** How often a step is measured; the best counts. */
  readonly rounds: number
  /** Milliseconds that what `work` launches takes. */
  readonly measure: (work: () => void) => number
}

/** Times one layer's steps, recorded where the device records, and works out what each needs at least. */
export function timeLayer(
  device: CudaDevice,
  config: ModelConfig,
  { kind, steps, rounds, measure }: TimeOptions,
): readonly LayerTime[] {
  const counting = new CostCountingDevice(device)
  const layer = new LoneLayer(counting, config, {
    sequences: Math.max(...steps.map(({ sequences }) => sequences)),
    contextMax: Math.max(...steps.map(({ start, count }) => start + count)),
    quantise: true,
  })
  layer.fillCache()
  return steps.map(({ name, sequences, start, count, gate }): LayerTime => {
    const segments = layer.sequences
      .slice(0, sequences)
      .map((sequence): LoneSegment => ({ sequence, start, count }))
    const run = layer.begin(segments)
    const { bytes, flops } = counting.count(segments.flatMap(rowsOf), run)
    const floorMilliseconds = 1000 * Math.max(bytes / bytesPerSecond, flops / flopsPerSecond)
    const once = (): void => void device.replay(`${kind} ${name}`, run)
    once()
    const milliseconds = Math.min(...Array.from({ length: rounds }, () => measure(once)))
    const ofFloor = floorMilliseconds / milliseconds
    return {
      kind,
      step: name,
      milliseconds,
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
