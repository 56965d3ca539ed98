import { describe, expect, it } from 'vitest'
import type { MeasuredUsage } from '../records/recorder.ts'
import { ServerMetrics } from './server-metrics.ts'

const usage: MeasuredUsage = {
  model: 'm',
  checkpointHash: 'c',
  promptTokens: 100,
  cachedTokens: 64,
  prefilledTokens: 36,
  completionTokens: 11,
  reasoningTokens: 0,
  deliveredTokens: 9,
  outcome: 'tool_calls',
  acceptedAtMs: 10_000,
  startedAtMs: 10_250,
  firstTokenAtMs: 11_000,
  finishedAtMs: 13_000,
}

const view = {
  model: 'm',
  ready: true,
  draining: false,
  underWay: 3,
  cacheTokens: 4096,
  stats: null,
  pendingRecords: 2,
}

function samplesOf(metrics: ServerMetrics): Map<string, number> {
  const lines = metrics.render(view).trimEnd().split('\n')
  return new Map(
    lines
      .filter((line) => !line.startsWith('#'))
      .map((line) => {
        const [name = '', value] = line.split(' ')
        return [name.replace('model_name="m",', '').replace('{model_name="m"}', ''), Number(value)]
      }),
  )
}

describe('ServerMetrics', () => {
  it('takes times and counts from what goes on record', () => {
    const metrics = new ServerMetrics()
    metrics.requestEnded(usage)
    const samples = samplesOf(metrics)
    const sumOf = (name: string) => samples.get(`${name}_sum`)
    expect({
      first: sumOf('vllm:time_to_first_token_seconds'),
      queued: sumOf('vllm:request_queue_time_seconds'),
      prefill: sumOf('vllm:request_prefill_time_seconds'),
      decode: sumOf('vllm:request_decode_time_seconds'),
      perToken: sumOf('vllm:request_time_per_output_token_seconds'),
      whole: sumOf('vllm:e2e_request_latency_seconds'),
      prompt: sumOf('vllm:request_prompt_tokens'),
      generated: sumOf('vllm:request_generation_tokens'),
      cached: samples.get('vllm:prompt_tokens_cached_total'),
      delivered: samples.get('sluice_delivered_tokens_total'),
      stop: samples.get('vllm:request_success_total{finished_reason="stop"}'),
      calls: samples.get('sluice_requests_total{outcome="tool_calls"}'),
      waiting: samples.get('vllm:num_requests_waiting'),
    }).toEqual({
      first: 1,
      queued: 0.25,
      prefill: 0.75,
      decode: 2,
      perToken: 0.2,
      whole: 3,
      prompt: 100,
      generated: 11,
      cached: 64,
      delivered: 9,
      stop: 1,
      calls: 1,
      waiting: 3,
    })
    expect(samples.get('vllm:time_to_first_token_seconds_bucket{le="0.5"}')).toBe(0)
    expect(samples.get('vllm:time_to_first_token_seconds_bucket{le="1"}')).toBe(1)
  })

  it('has no time for what never happened', () => {
    const metrics = new ServerMetrics()
    metrics.requestEnded({
      ...usage,
      outcome: 'cancelled',
      startedAtMs: null,
      firstTokenAtMs: null,
      completionTokens: 0,
    })
    metrics.requestEnded({ ...usage, completionTokens: 1 })
    const samples = samplesOf(metrics)
    expect(samples.get('vllm:request_queue_time_seconds_count')).toBe(1)
    expect(samples.get('vllm:time_to_first_token_seconds_count')).toBe(1)
    expect(samples.get('vllm:request_time_per_output_token_seconds_count')).toBe(0)
    expect(samples.get('vllm:e2e_request_latency_seconds_count')).toBe(2)
    expect(samples.get('vllm:request_success_total{finished_reason="abort"}')).toBe(1)
  })

  it('counts refusals and resumptions, and shows no engine before there is one', () => {
    const metrics = new ServerMetrics()
    metrics.requestRefused('not_found')
    metrics.requestRefused('not_found')
    metrics.streamResumed()
    const samples = samplesOf(metrics)
    expect(samples.get('sluice_requests_refused_total{code="not_found"}')).toBe(2)
    expect(samples.get('sluice_streams_resumed_total')).toBe(1)
    expect(samples.has('vllm:generation_tokens_total')).toBe(false)
  })
})
