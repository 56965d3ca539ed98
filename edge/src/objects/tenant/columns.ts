/** A row as SQLite gives it. */
export type Columns = Record<string, SqlStorageValue>

/** The value of a column that is declared TEXT and has one. */
export function textOf(value: SqlStorageValue | undefined): string {
  return typeof value === 'string' ? value : ''
}
