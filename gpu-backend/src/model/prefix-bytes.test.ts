import { describe, expect, it } from 'vitest'
import { ModelError } from './error.ts'
import { decodePrefix, encodePrefix } from './prefix-bytes.ts'

const contents = Uint8Array.from({ length: 40 }, (_, i) => 3 * i)
const bytes = encodePrefix('rows of 8', { length: 512, drafted: true, contents })

function fault(layout: string, of: Uint8Array): string | null {
  try {
    decodePrefix(layout, of)
    return null
  } catch (error) {
    if (error instanceof ModelError) return `${error.code}: ${error.message}`
    throw error
  }
}

describe("a prefix's bytes", () => {
  it('are read back as they were written, wherever they lie', () => {
    const shifted = new Uint8Array(bytes.length + 3)
    shifted.set(bytes, 3)
    const found = decodePrefix('rows of 8', shifted.subarray(3))
    expect({ ...found, contents: [...found.contents] }).toEqual({
      length: 512,
      drafted: true,
      contents: [...contents],
    })
  })

  it('are refused with any bit changed, or cut short at any byte', () => {
    for (let at = 0; at < bytes.length; at++) {
      const changed = bytes.slice()
      changed[at] = (changed[at] ?? 0) ^ (1 << (at % 8))
      expect(fault('rows of 8', changed)).toContain('prefix_unusable: these bytes cannot be made')
      expect(fault('rows of 8', bytes.subarray(0, at))).toContain('prefix_unusable')
    }
  })

  it('are refused by a cache of another layout', () => {
    expect(fault('rows of 9', bytes)).toBe(
      'prefix_unusable: these bytes cannot be made a prefix: ' +
        'they are of a cache laid out in another way',
    )
  })
})
