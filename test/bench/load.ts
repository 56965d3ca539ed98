import type { BackendCaller } from '../support/gpu-backend.ts'

/** One streamed answer as its client saw it. Times in milliseconds of `performance.now()`. */
export interface Answer {
  readonly status: number
  readonly sentAtMs: number
  readonly firstTokenAtMs: number
  readonly endedAtMs: number
  readonly promptTokens: number
  readonly cachedTokens: number
  readonly completionTokens: number
}

/** What a load sends: the text of one user message and the answer's limit. */
export interface Ask {
  readonly text: string
  readonly maxTokens: number
}

export const ttft = (answer: Answer): number => answer.firstTokenAtMs - answer.sentAtMs

/** Time per output token behind the first. */
export const tpot = (answer: Answer): number =>
  (answer.endedAtMs - answer.firstTokenAtMs) / Math.max(1, answer.completionTokens - 1)

export async function ask(caller: BackendCaller, { text, maxTokens }: Ask): Promise<Answer> {
  const sentAtMs = performance.now()
  const response = await caller.chat({
    messages: [{ role: 'user', content: text }],
    thinking: { type: 'disabled' },
    temperature: 0,
    stream: true,
    max_tokens: maxTokens,
  })
  const read = await readStream(response)
  return { status: response.status, sentAtMs, ...read }
}

async function readStream(response: Response): Promise<Omit<Answer, 'status' | 'sentAtMs'>> {
  const decoder = new TextDecoder()
  let tail = ''
  let firstTokenAtMs = Number.NaN
  let endedAtMs = Number.NaN
  for await (const chunk of response.body ?? []) {
    tail = (tail + decoder.decode(chunk, { stream: true })).slice(-4096)
    endedAtMs = performance.now()
    if (Number.isNaN(firstTokenAtMs) && tail.includes('data: ')) firstTokenAtMs = endedAtMs
  }
  const count = (name: string): number =>
    Number(new RegExp(`"${name}":(\\d+)`).exec(tail)?.[1] ?? 0)
  return {
    firstTokenAtMs,
    endedAtMs,
    promptTokens: count('prompt_tokens'),
    cachedTokens: count('prompt_cache_hit_tokens'),
    completionTokens: count('completion_tokens'),
  }
}

/** `clients` of them, each sending its next request when the one before has ended. */
export async function closedLoop(
  caller: BackendCaller,
  load: { readonly clients: number; readonly each: number; readonly next: () => Ask },
): Promise<readonly Answer[]> {
  const client = async (): Promise<Answer[]> => {
    const answers: Answer[] = []
    for (let i = 0; i < load.each; i++) answers.push(await ask(caller, load.next()))
    return answers
  }
  return (await Promise.all(Array.from({ length: load.clients }, client))).flat()
}

/** Requests that come when they come, whatever became of those before (a Poisson process). */
export async function openLoop(
  caller: BackendCaller,
  load: {
    readonly perSecond: number
    readonly count: number
    readonly random: () => number
    readonly next: () => Ask
  },
): Promise<readonly Answer[]> {
  const answers: Promise<Answer>[] = []
  let at = performance.now()
  for (let i = 0; i < load.count; i++) {
    at += (-Math.log(1 - load.random()) * 1000) / load.perSecond
    const wait = at - performance.now()
    if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait))
    answers.push(ask(caller, load.next()))
  }
  return Promise.all(answers)
}

/** Tokens a second over all answers together, from the first request to the last byte. */
export function throughput(answers: readonly Answer[]): number {
  const from = Math.min(...answers.map((answer) => answer.sentAtMs))
  const to = Math.max(...answers.map((answer) => answer.endedAtMs))
  const tokens = answers.reduce((total, answer) => total + answer.completionTokens, 0)
  return (1000 * tokens) / (to - from)
}

/** The value that a share `p` of them does not exceed. */
export function percentile(values: readonly number[], p: number): number {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(p * sorted.length))] ?? Number.NaN
}
