import { describe, expect, it } from 'vitest'
import type { LeaseReport, Spend } from '../admission/tenant-admission.ts'
import { callsOf, piecesOf } from './lease-book.ts'

const COST = {
  requests: 1,
  inputTokens: 5,
  uncachedInputTokens: 5,
  outputTokens: 2,
}

function reportOf(spends: number, closes: boolean): LeaseReport {
  const spend = (index: number): Spend => ({
    requestId: `req_${index}`,
    bodyBytes: 60,
    outputTokensMax: 16,
    estimate: COST,
    grantedOutputTokens: 16,
    holdPico: 7,
    agoMs: 0,
  })
  const price = { version: 'v', cacheHitPico: 1, cacheMissPico: 1, outputPico: 1 }
  const scope = { projectId: 'default', keyId: 'key_1', model: 'toy' }
  return {
    lease: { leaseId: 'lease_1', scope, price },
    first: 10,
    spends: Array.from({ length: spends }, (_, index) => spend(index)),
    closes,
  }
}

describe('piecesOf', () => {
  it('numbers the pieces on and closes the lease with the last one', () => {
    const report = reportOf(66, true)
    const pieces = piecesOf(report)
    expect(pieces.map(({ first, spends, closes }) => [first, spends.length, closes])).toEqual([
      [10, 32, false],
      [42, 32, false],
      [74, 2, true],
    ])
    expect(pieces.flatMap(({ spends }) => spends)).toEqual(report.spends)
  })

  it('leaves a lease open that the report leaves open', () => {
    expect(piecesOf(reportOf(33, false)).map(({ closes }) => closes)).toEqual([false, false])
  })

  it('closes a lease of which nothing was spent', () => {
    const report = reportOf(0, true)
    expect(piecesOf(report)).toEqual([report])
  })
})

describe('callsOf', () => {
  it('tells small reports together, and never more at once than a call takes', () => {
    const reports = [reportOf(0, true), reportOf(30, true), reportOf(2, false), reportOf(40, false)]
    const calls = callsOf(reports)
    expect(calls.map((call) => call.map(({ spends }) => spends.length))).toEqual([
      [0, 30, 2],
      [32],
      [8],
    ])
    expect(calls.flat()).toEqual(reports.flatMap(piecesOf))
  })
})
