import { readFile } from 'node:fs/promises'
import { parseModelConfig, type ModelConfig } from '#weights/layout/config.ts'
import { CpuDevice } from '../src/device/cpu.ts'
import { rowCount, type Tensor, tensorBytes } from '../src/device/tensor.ts'
import { visibleEntries } from '../src/kernels/batch.ts'
import type { NativeAddon } from '../src/kernels/native/addon.ts'
import {
  expertsOf,
  linearBytes,
  linearsOf,
  LoneLayer,
  loneLayerConfig,
} from '../src/model/testing/lone-layer.ts'
import type { LayerKind } from '../src/model/shape.ts'
import { type Bench, round3, timed } from './bench.ts'
import { machineConditions, openAddon } from './machine.ts'
import { Yardsticks } from './yardsticks.ts'

/** Rows of a step, and how often it is measured: short steps find an undisturbed moment sooner. */
const batches = [
  { rows: 1, rounds: 40 },
  { rows: 32, rounds: 6 },
  { rows: 128, rounds: 4 },
] as const
/** Position each row decodes at: CSA then picks among 1024 entries, HCA sees 32. */
const context = 4096
const numerics = 'fast'

/**
 * `npm run bench -- layer`: one layer of V4-Flash of each kind, all 256 experts, decoding one token
 * for each of several sequences. Bytes are what a step has to read at least: its weights, of the
 * experts only those some row was routed to, and the cached rows its queries see.
 */
export const layerBench: Bench = async (print) => {
  const addon = await openAddon(print)
  const machine = await machineConditions(addon)
  const conditions = { ...machine, numerics, context, model: 'V4-Flash' }
  for (const [key, value] of Object.entries(conditions)) print(`${key}: ${value}`)
  const released = await flashConfig()
  const yardsticks = new Yardsticks(addon, machine.threads)
  const ratios: Record<string, number> = {}
  print('\nlayer   rows  experts       MB   ms best  GB/s best  of read')
  for (const kind of ['swa', 'csa', 'hca'] as const) {
    const results = measureLayer(addon, released, kind, yardsticks)
    for (const result of results) {
      print(describe(kind, result))
      const rows = result.rows === 1 ? '1 row' : `${result.rows} rows`
      ratios[`${kind}, ${rows}, of read`] = round3(result.ofRead)
    }
  }
  print(yardsticks.describeRead())
  yardsticks.close()
  return { conditions, ratios }
}

interface LayerResult {
  readonly rows: number
  readonly experts: number
  readonly bytes: number
  /** The best of the rounds, and the best read rate seen between them: least disturbed by others. */
  readonly seconds: number
  readonly ofRead: number
}

async function flashConfig(): Promise<ModelConfig> {
  const file = new URL('../../test/vectors/config/v4-flash.json', import.meta.url)
  return parseModelConfig(JSON.parse(await readFile(file, 'utf8')))
}

function measureLayer(
  addon: NativeAddon,
  released: ModelConfig,
  kind: LayerKind,
  yardsticks: Yardsticks,
): readonly LayerResult[] {
  const device = new CpuDevice(addon, { numerics })
  const config = loneLayerConfig(released, { kind, expertCount: released.expertCount })
  const sequences = Math.max(...batches.map(({ rows }) => rows))
  const layer = new LoneLayer(device, config, { sequences, contextMax: context, quantise: false })
  layer.fillCache()
  const results = batches.map(({ rows, rounds }): LayerResult => {
    // The first step of a size allocates and touches what later ones find.
    step(layer, rows)
    const experts = new Set(layer.picks('experts', rows, config.expertsPerToken)).size
    const bytes = stepBytes(layer, rows, experts)
    const times: number[] = []
    for (let round = 0; round < rounds; round++) {
      yardsticks.readRate()
      times.push(step(layer, rows))
    }
    const seconds = Math.min(...times)
    return { rows, experts, bytes, seconds, ofRead: bytes / seconds / yardsticks.best.read }
  })
  device.close()
  return results
}

/** Seconds of one decode step for the first `rows` sequences. */
function step(layer: LoneLayer, rows: number): number {
  const segments = layer.sequences
    .slice(0, rows)
    .map((sequence) => ({ sequence, start: context - 1, count: 1 }))
  return timed(() => {
    layer.step(segments)
    layer.machine.device.synchronise()
  })
}

function stepBytes({ layer, machine }: LoneLayer, rows: number, experts: number): number {
  const { expertCount } = machine.shape
  const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0)
  const tensors = [layer.moe.gate, layer.attentionMix.fn, layer.moeMix.fn].map(tensorBytes)
  const whole = sum([...linearsOf(layer).map(linearBytes), ...tensors])
  const routed = (sum(expertsOf(layer).map(linearBytes)) * experts) / expertCount
  return whole + routed + rows * cachedBytes({ layer, machine })
}

/** Bytes of the cache one query at the end of the context reads. */
function cachedBytes({ layer, machine }: Pick<LoneLayer, 'layer' | 'machine'>): number {
  const { shape, cache } = machine
  const [cached] = cache.layers
  if (cached === undefined) return 0
  const { kind, ratio } = layer.shape
  const bytesOfRow = (tensor: Tensor): number =>
    tensorBytes(tensor) / rowCount(tensor) / (tensor.shape[1] ?? 1)
  const visible = ratio === 0 ? 0 : visibleEntries(context - 1, ratio)
  const attended = kind === 'csa' ? Math.min(visible, shape.indexTopK) : visible
  const { window, compressor, index } = cached
  return (
    shape.windowSize * bytesOfRow(window.tensor) +
    (compressor === null ? 0 : attended * bytesOfRow(compressor.entries.tensor)) +
    (index === null ? 0 : visible * bytesOfRow(index.entries.tensor))
  )
}

function describe(kind: LayerKind, result: LayerResult): string {
  const { rows, experts, bytes, seconds, ofRead } = result
  return [
    kind.padEnd(6),
    String(rows).padStart(6),
    String(experts).padStart(9),
    (bytes / 1e6).toFixed(0).padStart(9),
    (1000 * seconds).toFixed(2).padStart(10),
    (bytes / seconds / 1e9).toFixed(1).padStart(11),
    ofRead.toFixed(2).padStart(10),
  ].join('')
}
