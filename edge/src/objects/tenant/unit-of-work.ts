import { assert } from '../../admission/assert.ts'

/** What a transaction has gathered in memory. */
export interface Gathered {
  /** Writes it, as the transaction's last act. */
  write(): void
  /** The transaction is over; where it was not committed, nothing of it may be left. */
  end(committed: boolean): void
}

/**
 * Transactions whose rows are read once, changed in memory and written together at the end: a row
 * that a thousand requests of one report change is written once, and a thousand new rows in some
 * thirty statements. Nothing is acknowledged before the transaction is over, so nothing else is
 * different from writing at once.
 */
export class UnitOfWork {
  readonly #storage: DurableObjectStorage
  readonly #parts: Gathered[] = []
  #open = false

  constructor(storage: DurableObjectStorage) {
    this.#storage = storage
  }

  get isOpen(): boolean {
    return this.#open
  }

  add<Part extends Gathered>(part: Part): Part {
    this.#parts.push(part)
    return part
  }

  transaction<Value>(run: () => Value): Value {
    assert(!this.#open, 'transactions are not nested')
    this.#open = true
    let committed = false
    try {
      const value = this.#storage.transactionSync(() => {
        const made = run()
        for (const part of this.#parts) part.write()
        return made
      })
      committed = true
      return value
    } finally {
      for (const part of this.#parts) part.end(committed)
      this.#open = false
    }
  }
}
