import type { Account, Posting } from './ledger.ts'
import type { DueTable, Table, TenantStore } from './tenant-store.ts'

/** A tenant's rows in memory: for tests and simulations. Rows are never changed in place. */
export interface MemoryTenantStore extends TenantStore {
  readonly postings: readonly Posting[]
  /** Undoes everything since the last call to `commit`. */
  rollback(): void
  commit(): void
}

type Undo = () => void

/** `beforeWrite` is called before each change of a row; one that throws is a crash at that point. */
export function memoryTenantStore(beforeWrite: () => void = () => {}): MemoryTenantStore {
  let undos: Undo[] = []
  const remember = (undo: Undo): void => {
    beforeWrite()
    undos.push(undo)
  }
  const postings: Posting[] = []
  const byId = new Map<string, Posting>()
  const balances = new Map<Account, bigint>()
  return {
    buckets: new MemoryTable(remember),
    slots: new MemoryTable(remember),
    holders: new MemoryDueTable(remember),
    leases: new MemoryDueTable(remember),
    reservations: new MemoryDueTable(remember),
    parked: new MemoryDueTable(remember),
    estimators: new MemoryTable(remember),
    totals: new MemoryTable(remember),
    postings,
    journal: {
      find: (id) => byId.get(id),
      append: (posting) => {
        remember(() => {
          postings.pop()
          byId.delete(posting.id)
        })
        postings.push(posting)
        byId.set(posting.id, posting)
      },
    },
    balances: {
      get: (account) => balances.get(account) ?? 0n,
      set: (account, pico) => {
        const before = balances.get(account) ?? 0n
        remember(() => balances.set(account, before))
        balances.set(account, pico)
      },
    },
    expect: () => {},
    rollback: () => {
      for (const undo of undos.toReversed()) undo()
      undos = []
    },
    commit: () => {
      undos = []
    },
  }
}

class MemoryTable<Row extends { readonly id: string }> implements Table<Row> {
  protected readonly rows = new Map<string, Row>()
  readonly #remember: (undo: Undo) => void

  constructor(remember: (undo: Undo) => void) {
    this.#remember = remember
  }

  get(id: string): Row | undefined {
    return this.rows.get(id)
  }

  put(row: Row): void {
    this.#keep(row.id)
    this.rows.set(row.id, row)
  }

  delete(id: string): void {
    this.#keep(id)
    this.rows.delete(id)
  }

  #keep(id: string): void {
    const before = this.rows.get(id)
    this.#remember(() => {
      if (before === undefined) this.rows.delete(id)
      else this.rows.set(id, before)
    })
  }
}

class MemoryDueTable<Row extends { readonly id: string; readonly dueAtMs: number }>
  extends MemoryTable<Row>
  implements DueTable<Row>
{
  due(nowMs: number, limit: number): readonly Row[] {
    return [...this.rows.values()]
      .filter((row) => row.dueAtMs <= nowMs)
      .toSorted((a, b) => a.dueAtMs - b.dueAtMs || (a.id < b.id ? -1 : 1))
      .slice(0, limit)
  }

  firstDueMs(): number | null {
    const dues = [...this.rows.values()].map((row) => row.dueAtMs)
    return dues.length === 0 ? null : Math.min(...dues)
  }
}
