import type { ChatRequest, REASONING_EFFORTS } from '#protocol/chat-completions.ts'
import type { ModelEntry } from '#protocol/models.ts'
import type { PromptConstants, Release } from '#weights/manifest.ts'
import type { Effort } from '../text/prompt.ts'

type RequestedEffort = (typeof REASONING_EFFORTS)[number]

/**
 * What each requested level means to weights that know fewer. The preview was trained with two, the
 * lower of which is how it thinks unasked; later releases have three and start at the lowest. `none`
 * switches thinking off elsewhere; where `thinking` overrules it, it asks for no more than the least.
 */
const levels: Readonly<Record<Release, Readonly<Record<RequestedEffort, Effort>>>> = {
  preview: {
    none: 'default',
    minimal: 'default',
    low: 'default',
    medium: 'default',
    high: 'default',
    xhigh: 'max',
    max: 'max',
    ultra: 'max',
  },
  '0731': {
    none: 'default',
    minimal: 'default',
    low: 'default',
    medium: 'high',
    high: 'high',
    xhigh: 'high',
    max: 'max',
    ultra: 'max',
  },
}

/** The constant a level's prompt opens with; the default level needs none. */
export const effortConstants = {
  high: 'effortHigh',
  max: 'effortMax',
} as const satisfies Partial<Record<Effort, keyof PromptConstants>>

/** The served weights' level for a request's. */
export function effortFor(release: Release, requested: ChatRequest['reasoning_effort']): Effort {
  return requested == null ? 'default' : levels[release][requested]
}

/** The levels a checkpoint can really be asked for, lowest first. */
export function supportedEffort(
  release: Release,
  constants: PromptConstants,
): ModelEntry['effort'] {
  const defaultLevel = release === 'preview' ? 'high' : 'low'
  const high = release === '0731' && constants.effortHigh !== undefined ? ['high'] : []
  const max = constants.effortMax === undefined ? [] : ['max']
  return { supported_levels: [defaultLevel, ...high, ...max], default_level: defaultLevel }
}
