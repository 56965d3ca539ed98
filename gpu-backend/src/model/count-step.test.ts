import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { parseModelConfig } from '#weights/layout/config.ts'
import { cacheBytes, plainRowBytes, tokenFlops } from './cost-formulas.ts'
import { countDecodeSteps } from './count-step.ts'

// The forward pass and the cache, in the true dimensions of both releases, against the closed forms.

describe.each(['flash', 'pro'] as const)('%s', (name) => {
  const file = new URL(`../../../test/vectors/config/v4-${name}.json`, import.meta.url)
  const config = parseModelConfig(JSON.parse(readFileSync(file, 'utf8')))

  const contexts = [2 ** 20, 131_072, 257, 256] as const
  const [million, medium, odd, page] = countDecodeSteps(config, contexts)

  it('multiplies as often as the formula says, at any length', () => {
    expect(million?.flops).toEqual(tokenFlops(config, 2 ** 20))
    expect(medium?.flops).toEqual(tokenFlops(config, 131_072))
    expect(page?.flops).toEqual(tokenFlops(config, 256))
  })

  it('counts an entry once its block is complete, where the formula has fractions of one', () => {
    const { linear, core, indexer } = tokenFlops(config, 256)
    expect(odd?.flops).toEqual({ linear, core, indexer })
  })

  it('allocates the bytes of the formula, and the page table', () => {
    const { window, csa, index, hca, state } = cacheBytes(config, plainRowBytes(config, 4), 2 ** 20)
    expect(million?.cache.pages).toBe(csa + index + hca)
    const pageTable = (config.maxPositionEmbeddings / 256) * Int32Array.BYTES_PER_ELEMENT
    expect(million?.cache.slots).toBe(window + state + pageTable)
  })

  it('takes whole pages: one token more is 256 more', () => {
    expect(odd?.cache.pages).toBe(2 * (page?.cache.pages ?? 0))
    expect(odd?.cache.slots).toBe(million?.cache.slots)
  })
})
