import { readFile } from 'node:fs/promises'
import { type ModelConfig, parseModelConfig } from '#weights/layout/config.ts'
import { CpuDevice } from '../src/device/cpu.ts'
import {
  cacheBytes,
  cacheBytesPerToken,
  compactRowBytes,
  fp8Equivalent,
  type TokenFlops,
  tokenFlops,
  totalFlops,
} from '../src/model/cost-formulas.ts'
import { type Bench, round3, timed } from './bench.ts'
import { type CountedStep, countDecodeSteps } from './count-steps.ts'
import { machineConditions, openAddon } from './machine.ts'
import { feed, fill, narrowConfig, openNarrowModel, ShortSightedDevice } from './narrow-model.ts'
import { v32BytesPerToken, v32TokenFlops } from './v32-costs.ts'

type Print = (line: string) => void

const million = 2 ** 20
const releases = ['flash', 'pro'] as const
/** Where decoding is measured. */
const lengths = [2 ** 14, 2 ** 16, 2 ** 18, million] as const
const decodedTokens = 4

/**
 * `npm run bench -- context`: what a token of a long context costs, counted from the forward pass and
 * the cache in both releases' dimensions, beside the closed formulas and V3.2; then a million tokens
 * in the cache of a narrow model. SLUICE_BENCH_FILL=all computes every one of them.
 */
export const contextBench: Bench = async (print) => {
  const ratios: Record<string, number> = {}
  for (const name of releases) Object.assign(ratios, await compareRelease(name, print))
  const addon = await openAddon(print)
  const computedTokens = process.env['SLUICE_BENCH_FILL'] === 'all' ? million : 2 ** 15
  const device = new ShortSightedDevice(new CpuDevice(addon, { numerics: 'fast' }))
  try {
    Object.assign(ratios, runNarrow(device, computedTokens, print))
  } finally {
    device.close()
  }
  const machine = await machineConditions(addon)
  return {
    conditions: { ...machine, contextTokens: million, computedTokens, decodedTokens },
    ratios,
  }
}

async function compareRelease(
  name: 'flash' | 'pro',
  print: Print,
): Promise<Record<string, number>> {
  const file = new URL(`../../test/vectors/config/v4-${name}.json`, import.meta.url)
  const config = parseModelConfig(JSON.parse(await readFile(file, 'utf8')))
  const [counted] = countDecodeSteps(config, [million])
  if (counted === undefined) throw new Error('a step was counted')
  const label = name === 'flash' ? 'Flash' : 'Pro'
  print(`${label}, ${million} tokens`)
  return {
    ...compareBytes(label, config, counted, print),
    ...compareFlops(label, config, counted, print),
  }
}

function compareBytes(
  label: string,
  config: ModelConfig,
  { cache }: CountedStep,
  print: Print,
): Record<string, number> {
  const row = compactRowBytes(config)
  const formula = cacheBytesPerToken(config, row)
  const measured = cache.pages / million
  const { window, state } = cacheBytes(config, row, million)
  print('  cache                       allocated     formula        V3.2')
  print(line('bytes a token', [measured, formula, v32BytesPerToken.fp8], 1))
  print(line('MiB whatever the length', [cache.slots / 2 ** 20, (window + state) / 2 ** 20], 2))
  return {
    [`${label}, bytes a token, of formula`]: round3(measured / formula),
    [`${label}, bytes a token, of V3.2`]: round3(measured / v32BytesPerToken.fp8),
  }
}

function compareFlops(
  label: string,
  config: ModelConfig,
  { flops }: CountedStep,
  print: Print,
): Record<string, number> {
  const formula = tokenFlops(config, million)
  const v32 = v32TokenFlops(million)
  const giga = (from: TokenFlops, part: keyof TokenFlops): number => from[part] / 1e9
  print('  GFLOP a token                 counted     formula        V3.2')
  for (const part of ['linear', 'core', 'indexer'] as const) {
    print(line(part, [giga(flops, part), giga(formula, part), giga(v32, part)], 2))
  }
  print(line('pooling and transforms', [flops.other / 1e9], 2))
  const counted = totalFlops(flops) + flops.other
  print(line('all', [counted / 1e9, totalFlops(formula) / 1e9, totalFlops(v32) / 1e9], 2))
  const weighted = fp8Equivalent(flops, 'fp4') + flops.other
  const [weightedFormula, weightedV32] = [fp8Equivalent(formula, 'fp4'), fp8Equivalent(v32, 'fp8')]
  print(line('in FP8 equivalents', [weighted / 1e9, weightedFormula / 1e9, weightedV32 / 1e9], 2))
  return {
    [`${label}, FLOPs a token, of formula`]: round3(counted / totalFlops(formula)),
    [`${label}, FLOPs a token, of V3.2`]: round3(counted / totalFlops(v32)),
    [`${label}, FP8-equivalent FLOPs a token, of V3.2`]: round3(weighted / weightedV32),
  }
}

function line(label: string, figures: readonly number[], digits: number): string {
  return `  ${label.padEnd(25)}${figures.map((figure) => figure.toFixed(digits).padStart(12)).join('')}`
}

/** Fills the cache length by length, and decodes at each. */
function runNarrow(
  device: ShortSightedDevice,
  computedTokens: number,
  print: Print,
): Record<string, number> {
  const formula = cacheBytesPerToken(narrowConfig(), compactRowBytes(narrowConfig()))
  const narrow = openNarrowModel(device, million)
  const rates: number[] = []
  print("a narrow model with Flash's schedule and rows")
  print(`  the first ${computedTokens} tokens are computed, pages behind them repeated`)
  print('      tokens   filled, tokens/s  decoded, tokens/s   bytes a token     formula')
  let perToken = 0
  for (const length of lengths) {
    const before = narrow.sequence.length
    const seconds = timed(() => fill(device, narrow, length - decodedTokens, computedTokens))
    const rate = decodedTokens / timed(() => feed(narrow, decodedTokens, 1))
    rates.push(rate)
    perToken = narrow.cache.bytes().pages / length
    const filled = (length - decodedTokens - before) / seconds
    const columns: readonly (readonly [string, number])[] = [
      [String(length), 12],
      [filled.toFixed(0), 19],
      [rate.toFixed(2), 19],
      [perToken.toFixed(1), 16],
      [formula.toFixed(1), 12],
    ]
    print(columns.map(([text, width]) => text.padStart(width)).join(''))
  }
  return {
    'narrow model, bytes a token, of formula': round3(perToken / formula),
    'narrow model, decoding at 1,048,576 tokens, of 16,384': round3(
      (rates.at(-1) ?? 0) / (rates[0] ?? Number.NaN),
    ),
  }
}
