import { describe, expect, it } from 'vitest'
import { estimateCost, estimatesOf, learn, NEW_ESTIMATOR } from './estimator.ts'
import type { EstimatorState, LearntRequest } from './estimator.ts'

const request: LearntRequest = {
  bodyBytes: 4000,
  promptTokens: 1000,
  cachedTokens: 250,
  completionTokens: 100,
}

function learnt(requests: readonly Partial<LearntRequest>[]): EstimatorState {
  return requests.reduce<EstimatorState>(
    (state, change) => learn(state, { ...request, ...change }),
    NEW_ESTIMATOR,
  )
}

describe('estimates', () => {
  it('start from what text usually is', () => {
    expect(estimatesOf(NEW_ESTIMATOR)).toEqual({
      tokensPerByte: 1 / 3.5,
      cachedShare: 0,
      outputTokens: 2048,
    })
  })

  it('follow the tenant: ratio, cache hits, and the 90th percentile of outputs', () => {
    const outputs = Array.from({ length: 20 }, (_, index) => ({
      completionTokens: (index + 1) * 10,
    }))
    const { tokensPerByte, cachedShare, outputTokens } = estimatesOf(learnt(outputs))
    expect(tokensPerByte).toBeCloseTo(0.25, 12)
    expect(cachedShare).toBeCloseTo(0.25, 12)
    expect(outputTokens).toBe(180)
  })

  it('forget the oldest output after a hundred', () => {
    const long = Array.from({ length: 100 }, () => ({ completionTokens: 9000 }))
    const short = Array.from({ length: 100 }, () => ({ completionTokens: 10 }))
    expect(estimatesOf(learnt(long)).outputTokens).toBe(9000)
    expect(estimatesOf(learnt([...long, ...short])).outputTokens).toBe(10)
  })

  it('never reserve the model’s maximum', () => {
    const endless = Array.from({ length: 20 }, () => ({ completionTokens: 384_000 }))
    expect(estimatesOf(learnt(endless)).outputTokens).toBe(16_384)
  })

  it('follow a change of language within some tens of requests', () => {
    const dense = Array.from({ length: 60 }, () => ({ promptTokens: 2000 }))
    const { tokensPerByte } = estimatesOf(
      learnt([...Array.from({ length: 50 }, () => ({})), ...dense]),
    )
    expect(tokensPerByte).toBeGreaterThan(0.48)
  })
})

describe('estimateCost', () => {
  const estimates = { tokensPerByte: 0.25, cachedShare: 0.5, outputTokens: 300 }

  it('is the estimate in every dimension, bounded by what the request allows', () => {
    expect(estimateCost(estimates, { bodyBytes: 1001, outputTokensMax: 4096 })).toEqual({
      requests: 1,
      inputTokens: 251,
      uncachedInputTokens: 126,
      outputTokens: 300,
    })
    expect(estimateCost(estimates, { bodyBytes: 1000, outputTokensMax: 7 }).outputTokens).toBe(7)
  })

  it('never estimates more tokens than bytes, nor none', () => {
    const all = { tokensPerByte: 1, cachedShare: 1, outputTokens: 1 }
    expect(estimateCost(all, { bodyBytes: 3, outputTokensMax: 1 })).toEqual({
      requests: 1,
      inputTokens: 3,
      uncachedInputTokens: 1,
      outputTokens: 1,
    })
  })
})
