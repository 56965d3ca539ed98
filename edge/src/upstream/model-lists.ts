import { LIMITS } from '#protocol/chat-completions.ts'
import { modelListSchema } from '#protocol/models.ts'
import type { ModelEntry } from '#protocol/models.ts'
import { z } from 'zod'
import { readWhole } from '../bytes.ts'
import type { AppDeps, Caller } from '../context.ts'
import type { Pool, Settings } from '../env.ts'
import { logFailure } from '../failures.ts'
import { callBackend } from './backend.ts'

const FRESH_MS = 10_000
const LIST_BYTES_MAX = 256 * 1024
const CONTEXT_TOKENS = 1_048_576

/** What other engines say of a model: hardly more than its name; vLLM also how long its context is. */
const foreignListSchema = z.object({
  data: z.array(
    z.object({
      id: z.string().min(1),
      created: z.int().default(0),
      owned_by: z.string().default('unknown'),
      max_model_len: z.int().min(1).nullish(),
    }),
  ),
})

type ForeignEntry = z.infer<typeof foreignListSchema>['data'][number]

/** Where the engine is silent, what the open models were made for. */
function describeForeign({ id, created, owned_by, max_model_len }: ForeignEntry): ModelEntry {
  const contextWindow = max_model_len ?? CONTEXT_TOKENS
  return {
    id,
    object: 'model',
    created,
    owned_by,
    name: id,
    context_window: contextWindow,
    max_output_tokens: Math.min(contextWindow, LIMITS.maxTokens),
    input_modalities: ['text'],
    output_modalities: ['text'],
    effort: { supported_levels: ['high', 'max'], default_level: 'high' },
  }
}

interface KnownList {
  readonly entries: readonly ModelEntry[]
  readonly fetchedAtMs: number
}

export interface ListRequest {
  readonly settings: Settings
  readonly requestId: string
  readonly caller: Caller
  readonly signal: AbortSignal
}

/**
 * What each pool says it serves. The backends are asked, since only they know the limits of the
 * weights they hold; a pool that does not answer is represented by what it said last.
 */
export class ModelLists {
  readonly #deps: AppDeps
  readonly #known = new Map<string, KnownList>()

  constructor(deps: AppDeps) {
    this.#deps = deps
  }

  /** One entry a model, configured models only, in the settings' order. */
  async list(request: ListRequest): Promise<ModelEntry[]> {
    const lists = await Promise.all(
      request.settings.pools.map((pool) => this.#entriesOf(pool, request)),
    )
    const byId = new Map(lists.flat().map((entry) => [entry.id, entry]))
    return [...byId.values()]
  }

  async #entriesOf(pool: Pool, request: ListRequest): Promise<readonly ModelEntry[]> {
    const known = this.#known.get(pool.id)
    const nowMs = this.#deps.now()
    if (known !== undefined && nowMs - known.fetchedAtMs < FRESH_MS) return known.entries
    const fetched = await this.#fetchEntries(pool, request)
    if (fetched === null) return known?.entries ?? []
    const entries = fetched.filter((entry) => pool.models.includes(entry.id))
    this.#known.set(pool.id, { entries, fetchedAtMs: nowMs })
    return entries
  }

  /** Null when the pool cannot be reached or does not answer with a list; both are logged. */
  async #fetchEntries(pool: Pool, request: ListRequest): Promise<readonly ModelEntry[] | null> {
    const { settings, requestId, caller, signal } = request
    const call = { pool, path: '/v1/models', requestId, caller, signal, body: null } as const
    const response = await callBackend(call, settings, this.#deps).catch(() => null)
    if (response === null) return null
    try {
      if (response.status !== 200) throw new Error(`status ${response.status}`)
      const bytes = await readWhole(response.body, LIST_BYTES_MAX)
      const list: unknown = JSON.parse(new TextDecoder().decode(bytes ?? undefined))
      if (pool.kind === 'sluice') return modelListSchema.parse(list).data
      return foreignListSchema.parse(list).data.map(describeForeign)
    } catch (cause) {
      logFailure(this.#deps, 'backend_answer_invalid', cause, { pool: pool.id })
      return null
    }
  }
}
