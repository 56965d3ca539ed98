import { describe, expect, it } from 'vitest'
import { parseModelConfig } from '#weights/layout/config.ts'
import { toyConfig } from '#weights/toy/config.ts'
import { ModelError } from './error.ts'
import { modelShape } from './shape.ts'

const config = parseModelConfig(toyConfig)

describe('modelShape', () => {
  it('names the kind and routing of every layer', () => {
    expect(modelShape(config).layers).toEqual([
      { name: 'layers.0', kind: 'swa', ratio: 0, routing: 'hash' },
      { name: 'layers.1', kind: 'csa', ratio: 4, routing: 'hash' },
      { name: 'layers.2', kind: 'hca', ratio: 16, routing: 'learned' },
      { name: 'layers.3', kind: 'csa', ratio: 4, routing: 'learned' },
      { name: 'layers.4', kind: 'hca', ratio: 128, routing: 'learned' },
    ])
    expect(modelShape(config).mtp).toEqual({
      name: 'mtp.0',
      kind: 'swa',
      ratio: 0,
      routing: 'learned',
    })
  })

  it('derives what follows from other dimensions', () => {
    expect(modelShape(config)).toMatchObject({ plainDim: 64, mixWidth: 24, streamCount: 4 })
  })

  it('has no draft block where the checkpoint has none', () => {
    expect(modelShape({ ...config, mtpLayerCount: 0 }).mtp).toBeNull()
  })

  it.each([
    [{ queryRank: 96 }, 'the query rank, 96, is no multiple of 128'],
    [{ outputGroups: 3 }, 'the number of heads, 4, is no multiple of 3'],
    [
      { compressRatios: [0, 4, 48, 4, 128] },
      'layers.2 pools 48 tokens, which 256 are no multiple of',
    ],
  ])('refuses %o', (change, fault) => {
    const error = new ModelError('shape_unsupported', `this model cannot be run: ${fault}`)
    expect(() => modelShape({ ...config, ...change })).toThrow(error)
  })
})
