import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { type ModelConfig, parseModelConfig } from '#weights/layout/config.ts'
import { tensorInventory } from '#weights/layout/inventory.ts'
import {
  activeParameters,
  cacheBytes,
  cacheBytesPerToken,
  fp8Equivalent,
  fp8IndexRowBytes,
  compactRowBytes,
  plainRowBytes,
  snapshotBytes,
  tokenFlops,
  totalFlops,
} from './cost-formulas.ts'
import { Cache } from './cache.ts'
import { CountingDevice } from '../kernels/testing/counting-device.ts'
import { modelShape } from './shape.ts'
import { v32ActiveParameters, v32BytesPerToken, v32TokenFlops } from '../../bench/v32-costs.ts'

const million = 2 ** 20
const [mib, gib] = [2 ** 20, 2 ** 30]

function released(name: 'flash' | 'pro'): ModelConfig {
  const file = new URL(`../../../test/vectors/config/v4-${name}.json`, import.meta.url)
  return parseModelConfig(JSON.parse(readFileSync(file, 'utf8')))
}

const [flash, pro] = [released('flash'), released('pro')]

/** `value` to as many significant digits as a published figure has. */
function to(digits: number, value: number): number {
  return Number(value.toPrecision(digits))
}

describe('cached rows', () => {
  it('take 584 bytes a key and 68 an index key when compact', () => {
    for (const config of [flash, pro]) {
      expect(compactRowBytes(config)).toEqual({ key: 584, indexKey: 68 })
      expect(fp8IndexRowBytes(config)).toEqual({ key: 584, indexKey: 132 })
      expect(plainRowBytes(config, 2)).toEqual({ key: 1024, indexKey: 256 })
    }
  })

  it.each([
    ['Flash compact', flash, compactRowBytes(flash), [3.07, 3066, 357, 91.25, 3.435, 3514]],
    ['Flash bf16', flash, plainRowBytes(flash, 2), [5.38, 5376, 1344, 160, 6.724, 6880]],
    ['Pro compact', pro, compactRowBytes(pro), [4.35, 4380, 510, 141.4, 4.918, 5031]],
    ['Pro FP8 index', pro, fp8IndexRowBytes(pro), [4.35, 4380, 990, 141.4, 5.387, 5511]],
    ['Pro bf16', pro, plainRowBytes(pro, 2), [7.62, 7680, 1920, 248, 9.625, 9848]],
  ] as const)('add up to the published sizes at 1M tokens: %s', (_, config, row, published) => {
    const [window, csa, index, hca, total, perToken] = published
    const bytes = cacheBytes(config, row, million)
    expect(to(3, bytes.window / mib)).toBeCloseTo(window, 1)
    expect(bytes.csa / mib).toBe(csa)
    expect(bytes.index / mib).toBe(index)
    expect(to(4, bytes.hca / mib)).toBe(hca)
    expect(to(4, bytes.entries / gib)).toBe(total)
    expect(Math.round(cacheBytesPerToken(config, row))).toBe(perToken)
  })

  it('have a state beside them that does not grow', () => {
    expect(to(3, cacheBytes(flash, compactRowBytes(flash), 0).state / mib)).toBe(11.6)
    expect(to(3, cacheBytes(pro, compactRowBytes(pro), 0).state / mib)).toBe(17.8)
  })

  it.each([
    ['Flash', flash, 8192, 0.041],
    ['Flash', flash, 131_072, 0.443],
    ['Pro', pro, 8192, 0.06],
    ['Pro', pro, 131_072, 0.636],
  ] as const)('%s with its state at %i tokens', (_, config, context, expected) => {
    const { entries, state } = cacheBytes(config, compactRowBytes(config), context)
    expect(Number(((entries + state) / gib).toFixed(3))).toBe(expected)
  })

  it.each([
    ['Flash', flash, [3.89, 3.99]],
    ['Pro', pro, [5.52, 5.65]],
  ] as const)('in a snapshot, %s', (_, config, mebibytes) => {
    const row = compactRowBytes(config)
    const shape = modelShape(config)
    const found = [false, true].map((draft) => {
      const formats = { activations: 'bf16', keys: 'f32', indexKeys: 'f32' } as const
      const device = new CountingDevice({ ...formats, compactRows: true })
      const limits = { sequencesMax: 1, tokensMax: 256, rollbackMax: 8, prefixesMax: 1 }
      const cache = new Cache(device, shape, { limits, draft, rows: 'compact' })
      const sequence = cache.create(256)
      cache.grow(sequence, 256)
      cache.keep(Object.assign(sequence, { length: 256, furthest: 256 }))
      return cache.bytes().snapshots
    })
    const formula = [null, { activationBytes: 2 } as const].map((draft) =>
      snapshotBytes(config, row, draft),
    )
    expect(found).toEqual(formula)
    expect(found.map((bytes) => to(3, bytes / mib))).toEqual(mebibytes)
    // As much as the entries of five pages: not every page of a text is worth a snapshot.
    expect(Math.round((found[1] ?? 0) / (256 * cacheBytesPerToken(config, row)))).toBe(5)
  })

  it('are 7.3 % and 10.5 % of what V3.2 keeps a token', () => {
    expect(v32BytesPerToken).toEqual({ fp8: 48_068, bf16: 85_888 })
    expect(to(4, (v32BytesPerToken.fp8 * million) / gib)).toBe(46.94)
    expect(to(3, (v32BytesPerToken.bf16 * million) / gib)).toBe(83.9)
    const share = (config: ModelConfig): number =>
      (100 * cacheBytesPerToken(config, compactRowBytes(config))) / v32BytesPerToken.fp8
    expect(to(2, share(flash))).toBe(7.3)
    expect(to(3, share(pro))).toBe(10.5)
  })
})

describe('a generated token', () => {
  it('is multiplied with the published number of parameters', () => {
    expect(to(5, activeParameters(flash) / 1e9)).toBe(13.268)
    expect(to(5, activeParameters(pro) / 1e9)).toBe(48.849)
    expect(to(4, v32ActiveParameters() / 1e9)).toBe(37.48)
  })

  it("meets exactly the matrices of the checkpoint's directory", () => {
    for (const config of [flash, pro]) expect(activeParameters(config)).toBe(matrixElements(config))
  })

  it.each([
    ['Flash', tokenFlops(flash, million), [26.5, 23.6, 90.2]],
    // 128.849: published as 128.9.
    ['Pro', tokenFlops(pro, million), [97.7, 76.7, 128.8]],
    ['V3.2', v32TokenFlops(million), [75, 34.8, 1048]],
  ] as const)('%s at 1M tokens, in GFLOPs', (_, { linear, core, indexer }, published) => {
    const rounded = [linear, core, indexer].map((flops) => (flops / 1e9).toFixed(1))
    expect(rounded.map(Number)).toEqual(published)
  })

  it('costs 10.0 % and 26.5 % of one of V3.2 in units of FP8, 12.1 % and 26.2 % unweighted', () => {
    const v32 = v32TokenFlops(million)
    const shares = [flash, pro].map((config) => {
      const flops = tokenFlops(config, million)
      return [
        to(3, (100 * fp8Equivalent(flops, 'fp4')) / fp8Equivalent(v32, 'fp8')),
        to(3, (100 * totalFlops(flops)) / totalFlops(v32)),
      ]
    })
    expect(shares[1]).toEqual([26.5, 26.2])
    expect(shares[0]).toEqual([9.97, 12.1])
  })

  it('sees every entry while there are fewer than the indexer may pick', () => {
    const short = tokenFlops(flash, 1024)
    const keys = 43 * 128 + 21 * (1024 / 4) + 20 * (1024 / 128)
    expect(short.core).toBe(2 * 64 * 512 * 2 * keys)
    expect(short.linear).toBe(tokenFlops(flash, million).linear)
  })
})

/** Counted from the checkpoint's directory: matrices, of the routed experts as many as a token uses. */
function matrixElements(config: ModelConfig): number {
  let elements = 0
  for (const { name, dtype, shape } of tensorInventory(config)) {
    const [rows = 0, width] = shape
    const other = name.startsWith('mtp.') || name === 'embed.weight' || name.endsWith('.ape')
    if (other || width === undefined || dtype === 'F8_E8M0' || dtype === 'I64') continue
    const used = name.includes('.experts.') ? config.expertsPerToken / config.expertCount : 1
    elements += rows * width * (dtype === 'I8' ? 2 : 1) * used
  }
  return elements
}
