import { assert } from './assert.ts'
import type { BilledUsage } from './prices.ts'
import type { Scope } from './limits.ts'

/**
 * A tenant's journal: append-only, double entry. A posting takes its amount from one account and
 * gives it to another, so that all accounts together are always zero. A mistake is corrected by
 * another posting.
 *
 * `tenant` is what the tenant has (below zero: owes); `world` is where payments come from; `revenue`
 * is what was earned; `writeoff` is what was earned and could not be taken.
 */
export const ACCOUNTS = ['world', 'tenant', 'revenue', 'writeoff'] as const

export type Account = (typeof ACCOUNTS)[number]

export type PostingKind = 'topup' | 'settle' | 'void' | 'writeoff' | 'correction'

/** What a request's terminal posting says about it: reports of usage are made from these. */
export interface PostingUsage extends Scope, BilledUsage {
  /** When the request was admitted: the instant that decided its price and decides its day. */
  readonly admittedAtMs: number
  readonly priceVersion: string
}

export interface Posting {
  /**
   * The caller's, and unique: a request's terminal posting (`settle` or `void`) carries the request
   * id itself, so that there cannot be two.
   */
  readonly id: string
  readonly kind: PostingKind
  readonly atMs: number
  readonly from: Account
  readonly to: Account
  /** Not below zero. Zero for what is free: that too is said exactly once. */
  readonly amountPico: bigint
  readonly usage: PostingUsage | null
}

export type PostStatus = 'posted' | 'exists' | 'exists_with_different_contents'

export interface Journal {
  find(id: string): Posting | undefined
  append(posting: Posting): void
}

export interface Balances {
  get(account: Account): bigint
  set(account: Account, pico: bigint): void
}

const INT64_MAX = 2n ** 63n - 1n

/** Appends a posting and moves both balances, in the caller's transaction; repeats change nothing. */
export function post(journal: Journal, balances: Balances, posting: Posting): PostStatus {
  assert(posting.amountPico >= 0n, 'a posting moves no negative amount')
  assert(posting.from !== posting.to, 'a posting has two sides')
  const existing = journal.find(posting.id)
  if (existing !== undefined) {
    return sameContents(existing, posting) ? 'exists' : 'exists_with_different_contents'
  }
  journal.append(posting)
  balances.set(posting.from, checkedBalance(balances.get(posting.from) - posting.amountPico))
  balances.set(posting.to, checkedBalance(balances.get(posting.to) + posting.amountPico))
  return 'posted'
}

/** Every balance from nothing but the journal; what is stored must equal it to the last bit. */
export function replayJournal(postings: Iterable<Posting>): Readonly<Record<Account, bigint>> {
  const balances = { world: 0n, tenant: 0n, revenue: 0n, writeoff: 0n }
  for (const { from, to, amountPico } of postings) {
    balances[from] -= amountPico
    balances[to] += amountPico
  }
  return balances
}

/** A balance has to fit SQLite's INTEGER. */
function checkedBalance(pico: bigint): bigint {
  assert(pico <= INT64_MAX && pico >= -INT64_MAX, 'a balance fits 64 bits')
  return pico
}

/** A repeat may come at another time; it must not say anything else. */
function sameContents(a: Posting, b: Posting): boolean {
  return (
    a.kind === b.kind &&
    a.from === b.from &&
    a.to === b.to &&
    a.amountPico === b.amountPico &&
    JSON.stringify(a.usage) === JSON.stringify(b.usage)
  )
}
