import { describe, expect, it } from 'vitest'
import { PageLedger } from './page-ledger.ts'

describe('PageLedger', () => {
  it('has a page free again when the last of its owners lets go', () => {
    const ledger = new PageLedger(4)
    const first: number[] = []
    ledger.resize(first, 3)
    const kept = ledger.share(first.slice(0, 2), 'prefix')
    const second = ledger.share(kept, 'sequence')
    ledger.resize(second, 3)
    expect([ledger.free, ledger.heldBySequences]).toEqual([0, 4])
    ledger.audit([first, second], [kept])
    ledger.resize(first, 0)
    expect([ledger.free, ledger.heldBySequences]).toEqual([1, 3])
    ledger.resize(second, 0)
    expect([ledger.free, ledger.heldBySequences]).toEqual([2, 0])
    ledger.release(kept, 'prefix')
    ledger.audit([], [])
    expect(ledger.free).toBe(4)
  })

  it('says who holds a page', () => {
    const ledger = new PageLedger(2)
    const pages: number[] = []
    ledger.resize(pages, 1)
    const [page = -1] = pages
    expect([ledger.isHeldBySequence(page), ledger.hasOneOwner(page)]).toEqual([true, true])
    ledger.share(pages, 'prefix')
    expect([ledger.isHeldBySequence(page), ledger.hasOneOwner(page)]).toEqual([true, false])
    ledger.resize(pages, 0)
    expect([ledger.isHeldBySequence(page), ledger.hasOneOwner(page)]).toEqual([false, true])
  })

  it('catches a page taken from nowhere, given back twice or shared when free', () => {
    const ledger = new PageLedger(1)
    const pages: number[] = []
    expect(() => ledger.share([0], 'prefix')).toThrow('page 0 is in use')
    ledger.resize(pages, 1)
    expect(() => ledger.release(pages, 'prefix')).toThrow('page 0 belongs to a prefix')
    expect(() => ledger.resize([], 1)).toThrow('a sequence grows into free pages only')
    ledger.release(pages, 'sequence')
    expect(() => ledger.release(pages, 'sequence')).toThrow('page 0 belongs to a sequence')
  })

  it('finds in an audit what was forgotten', () => {
    const ledger = new PageLedger(3)
    const pages: number[] = []
    ledger.resize(pages, 2)
    expect(() => ledger.audit([], [])).toThrow('each page has the owners that name it')
    expect(() => ledger.audit([pages], [pages])).toThrow('each page has the owners that name it')
    ledger.audit([pages], [])
  })
})
