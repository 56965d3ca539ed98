import { describe, expect, it } from 'vitest'
import { REASONING_EFFORTS } from '#protocol/chat-completions.ts'
import { effortFor, supportedEffort } from './effort.ts'

describe('effortFor', () => {
  const mapped = (release: 'preview' | '0731'): Record<string, string> =>
    Object.fromEntries(REASONING_EFFORTS.map((effort) => [effort, effortFor(release, effort)]))

  it('knows two levels of the preview, the lower of which is the default', () => {
    expect(mapped('preview')).toEqual({
      none: 'default',
      minimal: 'default',
      low: 'default',
      medium: 'default',
      high: 'default',
      xhigh: 'max',
      max: 'max',
      ultra: 'max',
    })
  })

  it('knows three levels of later releases', () => {
    expect(mapped('0731')).toEqual({
      none: 'default',
      minimal: 'default',
      low: 'default',
      medium: 'high',
      high: 'high',
      xhigh: 'high',
      max: 'max',
      ultra: 'max',
    })
  })

  it('uses the default when nothing is asked for', () => {
    expect([effortFor('preview', null), effortFor('0731', undefined)]).toEqual([
      'default',
      'default',
    ])
  })
})

describe('supportedEffort', () => {
  it('promises only what the checkpoint has texts for', () => {
    expect(supportedEffort('preview', {})).toEqual({
      supported_levels: ['high'],
      default_level: 'high',
    })
    expect(supportedEffort('preview', { effortMax: 'x' }).supported_levels).toEqual(['high', 'max'])
    expect(supportedEffort('0731', { effortHigh: 'x', effortMax: 'y' })).toEqual({
      supported_levels: ['low', 'high', 'max'],
      default_level: 'low',
    })
  })
})
