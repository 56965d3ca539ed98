import { assert } from '../../admission/assert.ts'
import type { DueTable, Table } from '../../admission/tenant-store.ts'
import { slicesOf } from '../../slices.ts'
import type { Columns } from './columns.ts'
import type { Gathered, UnitOfWork } from './unit-of-work.ts'

/** How rows of one kind lie in their table. */
export interface RowShape<Row> {
  readonly table: string
  /** The first is the row's id. */
  readonly columns: readonly string[]
  /** One placeholder a column. */
  readonly values: string
  /** The select list of what `parse` takes. */
  readonly read: string
  /** Rows are added and never changed. */
  readonly appendOnly?: boolean
  /** There are few, and all are wanted again: they stay in memory between transactions. */
  readonly kept?: boolean
  readonly bind: (row: Row) => readonly SqlStorageValue[]
  readonly parse: (columns: Columns) => Row
}

/** workerd binds no more than a hundred values to a statement. */
const BOUND_MAX = 100
/** A list of ids is bound as one text, which must stay well below two megabytes. */
const IDS_MAX = 1_000

/** One table as a unit of work sees it. This object alone writes the table, so memory is right. */
export class GatheredRows<Row extends { readonly id: string }> implements Table<Row>, Gathered {
  protected readonly sql: SqlStorage
  protected readonly shape: RowShape<Row>
  readonly #unit: UnitOfWork
  readonly #statements: Statements
  /** What is known of the table: null is a row that is not there. */
  readonly #known = new Map<string, Row | null>()
  readonly #changed = new Set<string>()

  constructor(unit: UnitOfWork, sql: SqlStorage, shape: RowShape<Row>) {
    this.#unit = unit
    this.sql = sql
    this.shape = shape
    this.#statements = statementsOf(shape)
  }

  get(id: string): Row | undefined {
    const known = this.#known.get(id)
    if (known !== undefined) return known ?? undefined
    const [found] = this.sql.exec<Columns>(this.#statements.find, id).toArray()
    const row = found === undefined ? null : this.shape.parse(found)
    if (this.#unit.isOpen) this.#known.set(id, row)
    return row ?? undefined
  }

  put(row: Row): void {
    this.#change(row.id, row)
  }

  delete(id: string): void {
    this.#change(id, null)
  }

  /** Reads rows together that will be asked for one by one. */
  expect(ids: readonly string[]): void {
    assert(this.#unit.isOpen, 'rows are expected inside a transaction')
    const unknown = ids.filter((id) => !this.#known.has(id))
    for (const id of unknown) this.#known.set(id, null)
    for (const some of slicesOf(unknown, IDS_MAX)) {
      for (const found of this.sql.exec<Columns>(this.#statements.findAll, JSON.stringify(some))) {
        const row = this.shape.parse(found)
        this.#known.set(row.id, row)
      }
    }
  }

  write(): void {
    if (this.#changed.size === 0) return
    const ids = [...this.#changed]
    this.#changed.clear()
    // Neighbours in the tree lie on one page, which is then changed once. Postings keep their order.
    if (this.shape.appendOnly !== true) ids.sort()
    const rows: Row[] = []
    for (const id of ids) {
      const row = this.#known.get(id) ?? null
      if (row === null) this.sql.exec(this.#statements.delete, id)
      else rows.push(row)
    }
    this.#insert(rows)
  }

  end(committed: boolean): void {
    this.#changed.clear()
    if (!committed || this.shape.kept !== true) this.#known.clear()
    // Of what is not there, there is no end: anyone can ask for it.
    for (const [id, row] of this.#known) if (row === null) this.#known.delete(id)
  }

  #change(id: string, row: Row | null): void {
    assert(this.#unit.isOpen, 'rows change inside a transaction')
    this.#known.set(id, row)
    this.#changed.add(id)
  }

  /** Whole blocks and then one by one: two statements to prepare, whatever the number of rows. */
  #insert(rows: readonly Row[]): void {
    const { blockRows, insertBlock, insert } = this.#statements
    const inBlocks = rows.length - (rows.length % blockRows)
    for (const block of slicesOf(rows.slice(0, inBlocks), blockRows)) {
      this.sql.exec(insertBlock, ...block.flatMap(this.shape.bind))
    }
    for (const row of rows.slice(inBlocks)) this.sql.exec(insert, ...this.shape.bind(row))
  }
}

/** Rows with a column `due_at_ms`. */
export class GatheredDueRows<Row extends { readonly id: string; readonly dueAtMs: number }>
  extends GatheredRows<Row>
  implements DueTable<Row>
{
  /** Nothing is due before, as far as is known: most calls have nothing to look for. */
  #notDueBeforeMs = -Infinity

  override put(row: Row): void {
    super.put(row)
    this.#notDueBeforeMs = Math.min(this.#notDueBeforeMs, row.dueAtMs)
  }

  override end(committed: boolean): void {
    super.end(committed)
    if (!committed) this.#notDueBeforeMs = -Infinity
  }

  due(nowMs: number, limit: number): readonly Row[] {
    if (nowMs < this.#notDueBeforeMs) return []
    this.#notDueBeforeMs = this.firstDueMs() ?? Infinity
    const { table } = this.shape
    return this.sql
      .exec<Columns>(
        `SELECT row FROM ${table} WHERE due_at_ms <= ? ORDER BY due_at_ms, id LIMIT ?`,
        nowMs,
        limit,
      )
      .toArray()
      .map(this.shape.parse)
  }

  firstDueMs(): number | null {
    this.write()
    const text = `SELECT min(due_at_ms) AS first FROM ${this.shape.table}`
    return this.sql.exec<{ first: number | null }>(text).one().first
  }
}

interface Statements {
  readonly find: string
  readonly findAll: string
  readonly delete: string
  readonly insert: string
  readonly insertBlock: string
  readonly blockRows: number
}

function statementsOf<Row>(shape: RowShape<Row>): Statements {
  const { table, columns, values, read, appendOnly = false } = shape
  const [id, ...others] = columns
  const updates = others.map((name) => `${name} = excluded.${name}`).join(', ')
  const onConflict = appendOnly ? '' : ` ON CONFLICT (${id}) DO UPDATE SET ${updates}`
  const insertOf = (rows: number): string =>
    `INSERT INTO ${table} (${columns.join(', ')}) VALUES ` +
    Array.from({ length: rows }, () => `(${values})`).join(', ') +
    onConflict
  const blockRows = Math.floor(BOUND_MAX / columns.length)
  return {
    find: `SELECT ${read} FROM ${table} WHERE ${id} = ?`,
    // A join in this order: `IN` would first make a table of the ids, which costs a lookup or two.
    findAll: `SELECT ${read} FROM (SELECT value AS asked FROM json_each(?))
      CROSS JOIN ${table} ON ${id} = asked`,
    delete: `DELETE FROM ${table} WHERE ${id} = ?`,
    insert: insertOf(1),
    insertBlock: insertOf(blockRows),
    blockRows,
  }
}
