import type { EngineStats } from '../engine/protocol.ts'
import type { MeasuredUsage } from '../records/recorder.ts'
import { Histogram, PrometheusText } from './prometheus-text.ts'

/** How things stand when the metrics are read. */
export interface MetricsView {
  readonly model: string
  readonly ready: boolean
  readonly draining: boolean
  /** Requests handed to the engine, running or waiting. */
  readonly underWay: number
  readonly cacheTokens: number
  readonly stats: EngineStats | null
  readonly pendingRecords: number
}

/** Seconds: from a cached prompt on a GPU to a million tokens on a busy one. */
const firstTokenBounds = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 40, 80, 160, 640]
const perTokenBounds = [0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 5]
const requestBounds = [0.05, 0.1, 0.3, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 240, 480, 960, 1920, 7680]
const tokenBounds = [1, 4, 16, 64, 256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576]

/** Outcomes by the names vLLM has for them; a call is an ordinary end there. */
const finishedReason: Readonly<Record<MeasuredUsage['outcome'], string>> = {
  stop: 'stop',
  tool_calls: 'stop',
  length: 'length',
  cancelled: 'abort',
  failed: 'error',
}

/**
 * What `/metrics` shows. Names are vLLM's wherever the meaning is vLLM's, so that its dashboards and
 * alerts work here; everything else begins with `sluice_`. Nothing in it belongs to a tenant.
 */
export class ServerMetrics {
  readonly #firstToken = new Histogram(firstTokenBounds)
  readonly #perToken = new Histogram(perTokenBounds)
  readonly #whole = new Histogram(requestBounds)
  readonly #queued = new Histogram(requestBounds)
  readonly #prefill = new Histogram(requestBounds)
  readonly #decode = new Histogram(requestBounds)
  readonly #promptTokens = new Histogram(tokenBounds)
  readonly #generatedTokens = new Histogram(tokenBounds)
  readonly #finished = new Map(Object.values(finishedReason).map((reason) => [reason, 0]))
  readonly #outcomes = new Map(Object.keys(finishedReason).map((outcome) => [outcome, 0]))
  readonly #refused = new Map<string, number>()
  #cachedTokens = 0
  #deliveredTokens = 0
  #resumed = 0

  /** A request is over, and this is what its record says. */
  requestEnded(usage: MeasuredUsage): void {
    const { acceptedAtMs, startedAtMs, firstTokenAtMs, finishedAtMs } = usage
    add(this.#finished, finishedReason[usage.outcome])
    add(this.#outcomes, usage.outcome)
    this.#cachedTokens += usage.cachedTokens
    this.#deliveredTokens += usage.deliveredTokens
    this.#promptTokens.observe(usage.promptTokens)
    this.#generatedTokens.observe(usage.completionTokens)
    this.#whole.observe((finishedAtMs - acceptedAtMs) / 1000)
    if (startedAtMs !== null) this.#queued.observe((startedAtMs - acceptedAtMs) / 1000)
    if (firstTokenAtMs === null) return
    const decodeSeconds = (finishedAtMs - firstTokenAtMs) / 1000
    this.#firstToken.observe((firstTokenAtMs - acceptedAtMs) / 1000)
    this.#prefill.observe((firstTokenAtMs - (startedAtMs ?? acceptedAtMs)) / 1000)
    this.#decode.observe(decodeSeconds)
    if (usage.completionTokens > 1) {
      this.#perToken.observe(decodeSeconds / (usage.completionTokens - 1))
    }
  }

  requestRefused(code: string): void {
    add(this.#refused, code)
  }

  streamResumed(): void {
    this.#resumed += 1
  }

  /** The whole page. */
  render(view: MetricsView): string {
    const text = new PrometheusText({ model_name: view.model })
    this.#writeState(text, view)
    if (view.stats !== null) writeEngine(text, view.stats)
    this.#writeRequests(text)
    this.#writeTimes(text)
    return text.toString()
  }

  #writeState(text: PrometheusText, view: MetricsView): void {
    const { stats, underWay } = view
    const running = Math.min(stats?.running ?? 0, underWay)
    const max = stats?.cacheTokensMax ?? view.cacheTokens
    const free = stats?.cacheTokensFree ?? max
    text.gauge('vllm:num_requests_running', 'Requests in the running set.', running)
    text.gauge('vllm:num_requests_waiting', 'Requests waiting for a place.', underWay - running)
    text.gauge('vllm:kv_cache_usage_perc', 'Part of the cache in use, 0 to 1.', 1 - free / max)
    text.gauge('sluice_cache_tokens_free', 'Tokens of cache that can be had.', free)
    text.gauge('sluice_cache_tokens', 'Tokens of cache in all.', max)
    text.gauge('sluice_ready', '1 while requests are taken.', view.ready ? 1 : 0)
    text.gauge('sluice_draining', '1 while shutting down.', view.draining ? 1 : 0)
    text.gauge(
      'sluice_usage_records_pending',
      'Usage records that the edge does not have yet.',
      view.pendingRecords,
    )
  }

  #writeRequests(text: PrometheusText): void {
    text.counters(
      'vllm:request_success_total',
      'Requests ended, by reason.',
      'finished_reason',
      this.#finished,
    )
    text.counters('sluice_requests_total', 'Records kept, by outcome.', 'outcome', this.#outcomes)
    text.counters(
      'sluice_requests_refused_total',
      'Requests refused, by error code.',
      'code',
      this.#refused,
    )
    text.counter(
      'vllm:prompt_tokens_cached_total',
      'Prompt tokens of ended requests that came from the prefix cache.',
      this.#cachedTokens,
    )
    text.counter(
      'sluice_delivered_tokens_total',
      'Generated tokens that were written to a client.',
      this.#deliveredTokens,
    )
    text.counter('sluice_streams_resumed_total', 'Streams taken up again.', this.#resumed)
  }

  #writeTimes(text: PrometheusText): void {
    const histograms: readonly (readonly [string, string, Histogram])[] = [
      ['vllm:time_to_first_token_seconds', 'From acceptance to the first token.', this.#firstToken],
      [
        'vllm:request_time_per_output_token_seconds',
        'Mean time between the tokens of a request.',
        this.#perToken,
      ],
      ['vllm:e2e_request_latency_seconds', 'From acceptance to the end.', this.#whole],
      ['vllm:request_queue_time_seconds', 'From acceptance to the first step.', this.#queued],
      ['vllm:request_prefill_time_seconds', 'From the first step to a token.', this.#prefill],
      ['vllm:request_decode_time_seconds', 'From the first token to the end.', this.#decode],
      ['vllm:request_prompt_tokens', 'Prompt tokens of a request.', this.#promptTokens],
      ['vllm:request_generation_tokens', 'Tokens a request generated.', this.#generatedTokens],
    ]
    for (const [name, help, histogram] of histograms) text.histogram(name, help, histogram)
  }
}

/** What the engine counts. vLLM's prefix counters are in tokens; ours by prompt stand beside them. */
function writeEngine(text: PrometheusText, stats: EngineStats): void {
  const asked = stats.promptTokensTotal + stats.cachedTokensTotal
  const counters: readonly (readonly [string, string, number])[] = [
    ['vllm:prompt_tokens_total', 'Prompt tokens taken in, cached ones included.', asked],
    ['vllm:generation_tokens_total', 'Tokens generated.', stats.generatedTokensTotal],
    ['vllm:prefix_cache_queries_total', 'Prompt tokens looked up in the prefix cache.', asked],
    ['vllm:prefix_cache_hits_total', 'Of those, found.', stats.cachedTokensTotal],
    ['vllm:num_preemptions_total', 'Requests that had to give way.', stats.preemptionsTotal],
    ['vllm:spec_decode_num_draft_tokens_total', 'Tokens guessed.', stats.draftedTokensTotal],
    ['vllm:spec_decode_num_accepted_tokens_total', 'Of those, right.', stats.acceptedTokensTotal],
    ['sluice_prefill_tokens_total', 'Prompt tokens the model ran over.', stats.promptTokensTotal],
    ['sluice_prefix_lookups_total', 'Prompts looked up.', stats.prefixQueriesTotal],
    ['sluice_prefix_lookup_hits_total', 'Of those, with a find.', stats.prefixHitsTotal],
    ['sluice_engine_steps_total', 'Times the model ran.', stats.stepsTotal],
    ['sluice_engine_step_seconds_total', 'Time the model ran.', stats.stepSecondsTotal],
  ]
  for (const [name, help, value] of counters) text.counter(name, help, value)
}

function add(counts: Map<string, number>, key: string): void {
  counts.set(key, (counts.get(key) ?? 0) + 1)
}
