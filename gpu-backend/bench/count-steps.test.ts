import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { parseModelConfig } from '#weights/layout/config.ts'
import { cacheBytes, compactRowBytes, tokenFlops, totalFlops } from '../src/model/cost-formulas.ts'
import { countDecodeSteps } from './count-steps.ts'

// The forward pass and the cache, in the true dimensions of both releases, against the closed forms.

const none = { linear: 0, core: 0, indexer: 0, other: 0 }

describe.each(['flash', 'pro'] as const)('%s', (name) => {
  const file = new URL(`../../test/vectors/config/v4-${name}.json`, import.meta.url)
  const config = parseModelConfig(JSON.parse(readFileSync(file, 'utf8')))

  const contexts = [2 ** 20, 131_072, 257, 256] as const
  const counted = countDecodeSteps(config, contexts)
  const [million, , odd, page] = counted

  it('multiplies as often as the formula says, and mixes streams', () => {
    const formula = tokenFlops(config, 2 ** 20)
    const { hcMult: streams, hiddenSize, layerCount } = config
    // Two entrances a layer and the head each weigh the streams; each but the first entrance finds
    // an update of a vector and a matrix. Layers that route by token score only that token's experts.
    const elements = streams * hiddenSize
    const mixes =
      2 * elements * (2 * layerCount + 1) + 2 * elements * (streams + 1) * 2 * layerCount
    const unscored = config.expertCount - config.expertsPerToken
    expect(million?.flops).toMatchObject({
      linear: formula.linear + mixes - 2 * config.hashLayerCount * unscored * hiddenSize,
      core: formula.core,
      // One more product for each head of an index key: its weight.
      indexer: (formula.indexer * (config.indexHeadDim + 1)) / config.indexHeadDim,
    })
  })

  it('is within a hundredth of the formula, all counted', () => {
    for (const [i, context] of contexts.slice(0, 2).entries()) {
      const { linear, core, indexer, other } = counted[i]?.flops ?? none
      const share = (linear + core + indexer + other) / totalFlops(tokenFlops(config, context))
      expect(share).toBeGreaterThan(1)
      expect(share).toBeLessThan(1.01)
    }
  })

  it('costs the indexer nothing where there is nothing to choose', () => {
    expect(page?.flops.indexer).toBe(0)
  })

  it('allocates the bytes of the formula, and the page table', () => {
    const { window, csa, index, hca, state } = cacheBytes(config, compactRowBytes(config), 2 ** 20)
    expect(million?.cache.pages).toBe(csa + index + hca)
    const pageTable = (config.maxPositionEmbeddings / 256) * Int32Array.BYTES_PER_ELEMENT
    expect(million?.cache.slots).toBe(window + state + pageTable)
  })

  it('takes whole pages: one token more is 256 more', () => {
    expect(odd?.cache.pages).toBe(2 * (page?.cache.pages ?? 0))
    expect(odd?.cache.slots).toBe(million?.cache.slots)
  })
})
