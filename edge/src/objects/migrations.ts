/** One step of a schema, numbered from 1 by its place in the list. Steps are never edited. */
export type Migration = string

/** Whether an object's database has been set up. Reads only, so that asking leaves no trace. */
export function hasSchema(sql: SqlStorage): boolean {
  const found = sql.exec(
    "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'schema_steps'",
  )
  return found.toArray().length > 0
}

/** Runs the steps this database has not seen, all in one transaction. Safe to repeat. */
export function migrate(storage: DurableObjectStorage, migrations: readonly Migration[]): void {
  const { sql } = storage
  storage.transactionSync(() => {
    sql.exec('CREATE TABLE IF NOT EXISTS schema_steps (step INTEGER PRIMARY KEY) STRICT')
    const { done } = sql
      .exec<{ done: number }>('SELECT coalesce(max(step), 0) AS done FROM schema_steps')
      .one()
    for (const [index, migration] of migrations.entries()) {
      if (index < done) continue
      sql.exec(migration)
      sql.exec('INSERT INTO schema_steps (step) VALUES (?)', index + 1)
    }
  })
}
