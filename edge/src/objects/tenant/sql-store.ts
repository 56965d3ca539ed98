import { ACCOUNTS } from '../../admission/ledger.ts'
import type { Account, Balances, Journal, Posting } from '../../admission/ledger.ts'
import type {
  BucketRow,
  EstimatorRow,
  HolderRow,
  LeaseRow,
  ParkedRow,
  ReservationRow,
  SlotsRow,
  TenantStore,
  TotalsRow,
} from '../../admission/tenant-store.ts'
import { textOf } from './columns.ts'
import type { Columns } from './columns.ts'
import { GatheredDueRows, GatheredRows } from './gathered-rows.ts'
import type { RowShape } from './gathered-rows.ts'
import { UnitOfWork } from './unit-of-work.ts'
import { UsageCounts } from './usage-counts.ts'

/** A usage record as it came. */
interface ReceivedRecord {
  readonly id: string
  /** Canonical, so that equal texts are equal records. */
  readonly text: string
  /** Its key is not one of this tenant's. */
  readonly parked: boolean
  readonly receivedAtMs: number
}

/**
 * The admission core's tables in the object's database, and the transactions they change in.
 * Amounts pass as decimal text: SQLite keeps 64 bits of them, a JavaScript number 53.
 */
export class SqlTenantStore implements TenantStore {
  readonly #sql: SqlStorage
  readonly #unit: UnitOfWork
  readonly #postings: GatheredRows<Posting>
  readonly #balances: GatheredRows<BalanceRow>
  readonly #usage: UsageCounts
  readonly buckets: GatheredRows<BucketRow>
  readonly slots: GatheredRows<SlotsRow>
  readonly estimators: GatheredRows<EstimatorRow>
  readonly totals: GatheredRows<TotalsRow>
  readonly holders: GatheredDueRows<HolderRow>
  readonly leases: GatheredDueRows<LeaseRow>
  readonly reservations: GatheredDueRows<ReservationRow>
  readonly parked: GatheredDueRows<ParkedRow>
  readonly usageRecords: GatheredRows<ReceivedRecord>

  constructor(storage: DurableObjectStorage) {
    const { sql } = storage
    const unit = new UnitOfWork(storage)
    const rows = <Row extends { readonly id: string }>(shape: RowShape<Row>): GatheredRows<Row> =>
      unit.add(new GatheredRows(unit, sql, shape))
    const dueRows = <Row extends { readonly id: string; readonly dueAtMs: number }>(
      table: string,
    ): GatheredDueRows<Row> => unit.add(new GatheredDueRows(unit, sql, dueShape<Row>(table)))
    this.#sql = sql
    this.#unit = unit
    this.buckets = rows(keptShape('buckets'))
    this.slots = rows(keptShape('slots'))
    this.estimators = rows(keptShape('estimators'))
    this.totals = rows(keptShape('totals'))
    this.holders = dueRows('holders')
    this.leases = dueRows('leases')
    this.reservations = dueRows('reservations')
    this.parked = dueRows('parked')
    this.usageRecords = rows(RECEIVED_RECORD)
    this.#postings = rows(POSTING)
    this.#balances = rows(BALANCE)
    this.#usage = unit.add(new UsageCounts(sql))
  }

  /** Everything that `run` changes, or nothing. What it returns is true once this has returned. */
  transaction<Value>(run: () => Value): Value {
    return this.#unit.transaction(run)
  }

  expect(requestIds: readonly string[]): void {
    const { reservations, holders, parked } = this
    for (const rows of [this.#postings, reservations, holders, parked]) {
      rows.expect(requestIds)
    }
  }

  get journal(): Journal {
    return {
      find: (id) => this.#postings.get(id),
      append: (posting) => {
        this.#postings.put(posting)
        if (posting.kind === 'settle') this.#usage.count(posting)
      },
    }
  }

  get balances(): Balances {
    return {
      get: (account) => this.#balances.get(account)?.pico ?? 0n,
      set: (id, pico) => this.#balances.put({ id, pico }),
    }
  }

  /** Every account's balance as it is stored. */
  allBalances(): Record<Account, bigint> {
    const entries = ACCOUNTS.map((account) => [account, this.balances.get(account)] as const)
    return Object.fromEntries(entries) as Record<Account, bigint>
  }

  /** Up to `limit` postings in the order they were made, those after the `after`th. */
  postings(after: number, limit: number): (Posting & { readonly seq: number })[] {
    return this.#sql
      .exec<Columns & { readonly seq: number }>(
        `SELECT seq, ${POSTING.read} FROM journal WHERE seq > ? ORDER BY seq LIMIT ?`,
        after,
        limit,
      )
      .toArray()
      .map((row) => ({ seq: row.seq, ...POSTING.parse(row) }))
  }
}

/** Rows are our own JSON, put there by the same core. */
function parseRow<Row>(columns: Columns): Row {
  return JSON.parse(textOf(columns['row'])) as Row
}

/** A table with one row a limit, a model or a tenant. */
function keptShape<Row extends { readonly id: string }>(table: string): RowShape<Row> {
  return {
    table,
    columns: ['id', 'row'],
    values: '?, ?',
    read: 'row',
    kept: true,
    bind: (row) => [row.id, JSON.stringify(row)],
    parse: parseRow,
  }
}

function dueShape<Row extends { readonly id: string; readonly dueAtMs: number }>(
  table: string,
): RowShape<Row> {
  return {
    table,
    columns: ['id', 'due_at_ms', 'row'],
    values: '?, ?, ?',
    read: 'row',
    bind: (row) => [row.id, row.dueAtMs, JSON.stringify(row)],
    parse: parseRow,
  }
}

const POSTING: RowShape<Posting> = {
  table: 'journal',
  columns: ['id', 'kind', 'at_ms', 'from_account', 'to_account', 'amount_pico', 'usage'],
  values: '?, ?, ?, ?, ?, CAST(? AS INTEGER), ?',
  read: `id, kind, at_ms, from_account, to_account, CAST(amount_pico AS TEXT) AS amount_pico,
    usage`,
  appendOnly: true,
  bind: ({ id, kind, atMs, from, to, amountPico, usage }) => [
    id,
    kind,
    atMs,
    from,
    to,
    amountPico.toString(),
    usage === null ? null : JSON.stringify(usage),
  ],
  parse: (row) => ({
    id: textOf(row['id']),
    kind: textOf(row['kind']) as Posting['kind'],
    atMs: Number(row['at_ms']),
    from: textOf(row['from_account']) as Account,
    to: textOf(row['to_account']) as Account,
    amountPico: BigInt(textOf(row['amount_pico'])),
    usage: row['usage'] === null ? null : (JSON.parse(textOf(row['usage'])) as Posting['usage']),
  }),
}

interface BalanceRow {
  readonly id: Account
  readonly pico: bigint
}

const BALANCE: RowShape<BalanceRow> = {
  table: 'balances',
  columns: ['account', 'pico'],
  values: '?, CAST(? AS INTEGER)',
  read: 'account, CAST(pico AS TEXT) AS pico',
  kept: true,
  bind: ({ id, pico }) => [id, pico.toString()],
  parse: (row) => ({
    id: textOf(row['account']) as Account,
    pico: BigInt(textOf(row['pico'])),
  }),
}

const RECEIVED_RECORD: RowShape<ReceivedRecord> = {
  table: 'usage_records',
  columns: ['request_id', 'record', 'parked', 'received_at_ms'],
  values: '?, ?, ?, ?',
  read: 'request_id, record, parked, received_at_ms',
  appendOnly: true,
  bind: ({ id, text, parked, receivedAtMs }) => [id, text, parked ? 1 : 0, receivedAtMs],
  parse: (row) => ({
    id: textOf(row['request_id']),
    text: textOf(row['record']),
    parked: row['parked'] === 1,
    receivedAtMs: Number(row['received_at_ms']),
  }),
}
