import { describe, expect, it } from 'vitest'
import { newRequestId, REQUEST_ID } from './request-id.ts'

const zeros = (length: number): Uint8Array => new Uint8Array(length)
const ones = (length: number): Uint8Array => new Uint8Array(length).fill(31)

describe('newRequestId', () => {
  it('sorts by time, whatever the random letters', () => {
    const times = [0, 31, 32, 1_023, 1_024, 1_780_000_000_000, 1_780_000_000_001, 2 ** 45 - 1]
    const ids = times.flatMap((atMs) => [newRequestId(atMs, zeros), newRequestId(atMs, ones)])
    for (const id of ids) expect(id).toMatch(REQUEST_ID)
    const byTime = (id: string): string => id.slice(0, 'req_'.length + 9)
    expect(ids.map(byTime)).toEqual(ids.map(byTime).toSorted())
    expect(new Set(ids.map(byTime)).size).toBe(times.length)
  })

  it('differs within a millisecond', () => {
    expect(newRequestId(5, zeros)).not.toBe(newRequestId(5, ones))
  })
})
