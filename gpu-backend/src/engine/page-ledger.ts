import { strict as assert } from 'node:assert'

/** Who counts a page as its own: sequences that run, and prefixes that are kept for others. */
export type PageOwner = 'sequence' | 'prefix'

/**
 * The books of the model's cache, in numbers of pages alone. Which page is which matters: sequences
 * and prefixes share them, and one is free again when the last owner lets go. Page numbers here are
 * the ledger's own, but a page is shared here exactly if it is in the model, so the counts agree.
 */
export class PageLedger {
  readonly max: number
  readonly #free: number[]
  /** By page: how many of each kind own it. */
  readonly #owners: Readonly<Record<PageOwner, Uint32Array>>
  #heldBySequences = 0

  constructor(max: number) {
    assert(Number.isSafeInteger(max) && max >= 1, `a cache has at least one page, not ${max}`)
    this.max = max
    this.#free = Array.from({ length: max }, (_, i) => max - 1 - i)
    this.#owners = { sequence: new Uint32Array(max), prefix: new Uint32Array(max) }
  }

  get free(): number {
    return this.#free.length
  }

  /** Pages that some sequence owns; all others are free, or will be when prefixes are dropped. */
  get heldBySequences(): number {
    return this.#heldBySequences
  }

  /** Brings a sequence's pages to `count`: takes fresh ones, or lets go of the last. */
  resize(pages: number[], count: number): void {
    while (pages.length < count) {
      const page = this.#free.pop()
      assert(page !== undefined, 'a sequence grows into free pages only')
      this.#claim(page, 'sequence')
      pages.push(page)
    }
    this.release(pages.splice(count), 'sequence')
  }

  /** One owner more for pages that have some. */
  share(pages: readonly number[], owner: PageOwner): number[] {
    for (const page of pages) {
      assert(this.#ownersOf(page) > 0, `page ${page} is in use`)
      this.#claim(page, owner)
    }
    return [...pages]
  }

  release(pages: readonly number[], owner: PageOwner): void {
    for (const page of pages) {
      const left = (this.#owners[owner][page] ?? 0) - 1
      assert(left >= 0, `page ${page} belongs to a ${owner}`)
      this.#owners[owner][page] = left
      if (owner === 'sequence' && left === 0) this.#heldBySequences -= 1
      if (this.#ownersOf(page) === 0) this.#free.push(page)
    }
  }

  isHeldBySequence(page: number): boolean {
    return (this.#owners.sequence[page] ?? 0) > 0
  }

  /** Whether it would be free if its one owner let go. */
  hasOneOwner(page: number): boolean {
    return this.#ownersOf(page) === 1
  }

  /** Counts everything afresh: `sequences` and `prefixes` are all the lists there are. */
  audit(sequences: readonly (readonly number[])[], prefixes: readonly (readonly number[])[]): void {
    const counted = { sequence: count(sequences, this.max), prefix: count(prefixes, this.max) }
    assert.deepEqual(this.#owners, counted, 'each page has the owners that name it')
    const used = new Set([...sequences, ...prefixes].flat())
    assert.equal(used.size + this.#free.length, this.max, 'a page is free or in use')
    assert(!this.#free.some((page) => used.has(page)), 'a page in use is not free')
    assert.equal(this.#heldBySequences, new Set(sequences.flat()).size, 'sequences hold that many')
  }

  #claim(page: number, owner: PageOwner): void {
    const owners = (this.#owners[owner][page] ?? 0) + 1
    this.#owners[owner][page] = owners
    if (owner === 'sequence' && owners === 1) this.#heldBySequences += 1
  }

  #ownersOf(page: number): number {
    return (this.#owners.sequence[page] ?? 0) + (this.#owners.prefix[page] ?? 0)
  }
}

function count(lists: readonly (readonly number[])[], max: number): Uint32Array {
  const owners = new Uint32Array(max)
  for (const page of lists.flat()) owners[page] = (owners[page] ?? 0) + 1
  return owners
}
