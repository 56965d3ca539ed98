import type { UsageRecord } from '#protocol/usage-record.ts'

/** The auditor's own arithmetic, apart from the edge's: dollars in text to pico-dollars. */
export function picoOf(usd: string): bigint {
  const [whole = '0', fraction = ''] = usd.replace('-', '').split('.')
  const amount = BigInt(whole) * 10n ** 12n + BigInt(fraction.padEnd(12, '0'))
  return usd.startsWith('-') ? -amount : amount
}

export interface LedgerPosting {
  readonly seq: number
  readonly id: string
  readonly kind: 'topup' | 'settle' | 'void' | 'writeoff' | 'correction'
  readonly from: string
  readonly to: string
  readonly amount_usd: string
  readonly usage: {
    readonly prompt_tokens: number
    readonly cached_tokens: number
    readonly completion_tokens: number
  } | null
}

export interface LedgerAnswer {
  readonly balances: Readonly<Record<string, string>>
  readonly data: readonly LedgerPosting[]
  readonly has_more: boolean
}

/** What an answer that reached its end told its client. */
export interface SeenUsage {
  readonly requestId: string
  readonly promptTokens: number
  readonly completionTokens: number
}

export interface Evidence {
  readonly postings: readonly LedgerPosting[]
  readonly balances: Readonly<Record<string, string>>
  /** What usage reports sum up to. */
  readonly usageUsd: string
  readonly records: readonly UsageRecord[]
  readonly seen: readonly SeenUsage[]
}

/** Everything that is wrong with a ledger, as sentences; none when it is right. */
export function audit(evidence: Evidence): string[] {
  const { postings, records, seen } = evidence
  const terminal = new Map<string, LedgerPosting>()
  const faults: string[] = []
  for (const posting of postings) {
    if (posting.kind !== 'settle' && posting.kind !== 'void') continue
    if (terminal.has(posting.id)) faults.push(`${posting.id} has two terminal postings`)
    terminal.set(posting.id, posting)
  }
  for (const record of records) {
    const posting = terminal.get(record.requestId)
    if (posting === undefined) faults.push(`${record.requestId}: its record was lost`)
    else faults.push(...compare(record, posting))
  }
  for (const { requestId, promptTokens, completionTokens } of seen) {
    const usage = terminal.get(requestId)?.usage
    if (usage?.prompt_tokens !== promptTokens || usage.completion_tokens !== completionTokens) {
      faults.push(`${requestId}: billed ${JSON.stringify(usage)}, told ${completionTokens}`)
    }
  }
  return [...faults, ...checkSums(evidence)]
}

function compare(record: UsageRecord, { kind, usage }: LedgerPosting): string[] {
  const { requestId, outcome, deliveredTokens, completionTokens } = record
  const cancelled = outcome === 'cancelled'
  const output = outcome === 'failed' ? 0 : cancelled ? deliveredTokens : completionTokens
  if (kind === 'settle' && usage?.completion_tokens === output) return []
  return [
    `${requestId}: ${outcome} of ${output} tokens, posted as ${kind} ${JSON.stringify(usage)}`,
  ]
}

function checkSums({ postings, balances, usageUsd }: Evidence): string[] {
  const replayed = new Map<string, bigint>()
  let earned = 0n
  for (const { kind, from, to, amount_usd: amount } of postings) {
    const pico = picoOf(amount)
    replayed.set(from, (replayed.get(from) ?? 0n) - pico)
    replayed.set(to, (replayed.get(to) ?? 0n) + pico)
    if (kind === 'settle') earned += pico
  }
  const wrong = Object.entries(balances).filter(
    ([account, usd]) => (replayed.get(account) ?? 0n) !== picoOf(usd),
  )
  const total = Object.values(balances).reduce((sum, usd) => sum + picoOf(usd), 0n)
  return [
    ...wrong.map(([account, usd]) => `${account} stands at ${usd}, the journal says otherwise`),
    ...(total === 0n ? [] : [`all accounts together are ${total}, not zero`]),
    ...(picoOf(usageUsd) === earned ? [] : [`usage says ${usageUsd}, the ledger ${earned} pico`]),
  ]
}
