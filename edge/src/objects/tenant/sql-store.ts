import { ACCOUNTS } from '../../admission/ledger.ts'
import type { Account, Balances, Journal, Posting } from '../../admission/ledger.ts'
import type { DueTable, Table, TenantStore } from '../../admission/tenant-store.ts'
import { dayOf } from './usage.ts'

interface JsonRow extends Record<string, SqlStorageValue> {
  readonly row: string
}

interface PostingColumns extends Record<string, SqlStorageValue> {
  readonly id: string
  readonly kind: string
  readonly at_ms: number
  readonly from_account: string
  readonly to_account: string
  readonly amount_pico: string
  readonly usage: string | null
}

/**
 * The admission core's tables in the object's database, inside whatever transaction its caller has
 * open. Amounts pass as decimal text: SQLite keeps 64 bits of them, a JavaScript number 53.
 */
export function openTenantStore(sql: SqlStorage): TenantStore {
  return {
    buckets: table(sql, 'buckets'),
    slots: table(sql, 'slots'),
    estimators: table(sql, 'estimators'),
    totals: table(sql, 'totals'),
    holders: dueTable(sql, 'holders'),
    leases: dueTable(sql, 'leases'),
    reservations: dueTable(sql, 'reservations'),
    parked: dueTable(sql, 'parked'),
    journal: new SqlJournal(sql),
    balances: sqlBalances(sql),
  }
}

type PlainName = 'buckets' | 'slots' | 'estimators' | 'totals'
type DueName = 'holders' | 'leases' | 'reservations' | 'parked'

function table<Row extends { readonly id: string }>(sql: SqlStorage, name: PlainName): Table<Row> {
  return {
    get: (id) => findRow<Row>(sql, name, id),
    put: (row) => {
      sql.exec(
        `INSERT INTO ${name} (id, row) VALUES (?, ?)
         ON CONFLICT (id) DO UPDATE SET row = excluded.row`,
        row.id,
        JSON.stringify(row),
      )
    },
    delete: (id) => deleteRow(sql, name, id),
  }
}

function dueTable<Row extends { readonly id: string; readonly dueAtMs: number }>(
  sql: SqlStorage,
  name: DueName,
): DueTable<Row> {
  return {
    get: (id) => findRow<Row>(sql, name, id),
    put: (row) => {
      sql.exec(
        `INSERT INTO ${name} (id, due_at_ms, row) VALUES (?, ?, ?)
         ON CONFLICT (id) DO UPDATE SET due_at_ms = excluded.due_at_ms, row = excluded.row`,
        row.id,
        row.dueAtMs,
        JSON.stringify(row),
      )
    },
    delete: (id) => deleteRow(sql, name, id),
    due: (nowMs, limit) =>
      sql
        .exec<JsonRow>(
          `SELECT row FROM ${name} WHERE due_at_ms <= ? ORDER BY due_at_ms, id LIMIT ?`,
          nowMs,
          limit,
        )
        .toArray()
        .map(({ row }) => JSON.parse(row) as Row),
    firstDueMs: () =>
      sql.exec<{ first: number | null }>(`SELECT min(due_at_ms) AS first FROM ${name}`).one().first,
  }
}

/** Rows are our own JSON, put there by the same core. */
function findRow<Row>(sql: SqlStorage, name: PlainName | DueName, id: string): Row | undefined {
  const [found] = sql.exec<JsonRow>(`SELECT row FROM ${name} WHERE id = ?`, id).toArray()
  return found === undefined ? undefined : (JSON.parse(found.row) as Row)
}

function deleteRow(sql: SqlStorage, name: PlainName | DueName, id: string): void {
  sql.exec(`DELETE FROM ${name} WHERE id = ?`, id)
}

const POSTING = `SELECT id, kind, at_ms, from_account, to_account,
  CAST(amount_pico AS TEXT) AS amount_pico, usage FROM journal`

export class SqlJournal implements Journal {
  readonly #sql: SqlStorage

  constructor(sql: SqlStorage) {
    this.#sql = sql
  }

  find(id: string): Posting | undefined {
    const [row] = this.#sql.exec<PostingColumns>(`${POSTING} WHERE id = ?`, id).toArray()
    return row === undefined ? undefined : toPosting(row)
  }

  append(posting: Posting): void {
    this.#sql.exec(
      `INSERT INTO journal (id, kind, at_ms, from_account, to_account, amount_pico, usage)
       VALUES (?, ?, ?, ?, ?, CAST(? AS INTEGER), ?)`,
      posting.id,
      posting.kind,
      posting.atMs,
      posting.from,
      posting.to,
      posting.amountPico.toString(),
      posting.usage === null ? null : JSON.stringify(posting.usage),
    )
    if (posting.kind === 'settle') this.#countUsage(posting)
  }

  /** Up to `limit` postings in the order they were made, those after the `after`th. */
  *read(after: number, limit: number): Iterable<Posting & { readonly seq: number }> {
    const query = POSTING.replace('SELECT id', 'SELECT seq, id')
    const rows = this.#sql.exec<PostingColumns & { readonly seq: number }>(
      `${query} WHERE seq > ? ORDER BY seq LIMIT ?`,
      after,
      limit,
    )
    for (const row of rows) yield { seq: row.seq, ...toPosting(row) }
  }

  /** The day is that of admission: a request that runs past midnight belongs to the day before. */
  #countUsage({ usage, amountPico }: Posting): void {
    if (usage === null) return
    this.#sql.exec(
      `INSERT INTO usage VALUES (?, ?, ?, ?, 1, ?, ?, ?, CAST(? AS INTEGER))
       ON CONFLICT DO UPDATE SET
         requests = requests + 1,
         prompt_tokens = prompt_tokens + excluded.prompt_tokens,
         cached_tokens = cached_tokens + excluded.cached_tokens,
         completion_tokens = completion_tokens + excluded.completion_tokens,
         amount_pico = amount_pico + excluded.amount_pico`,
      dayOf(usage.admittedAtMs),
      usage.projectId,
      usage.keyId,
      usage.model,
      usage.promptTokens,
      usage.cachedTokens,
      usage.outputTokens,
      amountPico.toString(),
    )
  }
}

function toPosting(row: PostingColumns): Posting {
  return {
    id: row.id,
    kind: row.kind as Posting['kind'],
    atMs: row.at_ms,
    from: row.from_account as Account,
    to: row.to_account as Account,
    amountPico: BigInt(row.amount_pico),
    usage: row.usage === null ? null : (JSON.parse(row.usage) as Posting['usage']),
  }
}

function sqlBalances(sql: SqlStorage): Balances {
  return {
    get: (account) => {
      const [row] = sql
        .exec<{ pico: string }>(
          'SELECT CAST(pico AS TEXT) AS pico FROM balances WHERE account = ?',
          account,
        )
        .toArray()
      return BigInt(row?.pico ?? '0')
    },
    set: (account, pico) => {
      sql.exec(
        `INSERT INTO balances (account, pico) VALUES (?, CAST(? AS INTEGER))
         ON CONFLICT (account) DO UPDATE SET pico = excluded.pico`,
        account,
        pico.toString(),
      )
    },
  }
}

/** Every account's balance as it is stored. */
export function allBalances(balances: Balances): Record<Account, bigint> {
  const entries = ACCOUNTS.map((account) => [account, balances.get(account)] as const)
  return Object.fromEntries(entries) as Record<Account, bigint>
}
