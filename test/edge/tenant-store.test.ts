import { runInDurableObject } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { describe, expect, it } from 'vitest'
import { memoryTenantStore } from '../../edge/src/admission/memory-store.ts'
import type { Posting } from '../../edge/src/admission/ledger.ts'
import type { HolderRow, TenantStore } from '../../edge/src/admission/tenant-store.ts'
import { migrate } from '../../edge/src/objects/migrations.ts'
import { TENANT_MIGRATIONS } from '../../edge/src/objects/tenant/schema.ts'
import { SqlTenantStore } from '../../edge/src/objects/tenant/sql-store.ts'

const IDS = Array.from({ length: 90 }, (_, index) => `id_${index}`)
const TIMES_END_MS = 1_000
const ADMITTED_AT_MS = Date.UTC(2026, 10, 23, 23, 59)

/** The storage of an object nobody has used, set up as a tenant's. */
async function inStorage(
  run: (storage: DurableObjectStorage) => void | Promise<void>,
): Promise<void> {
  const stub = env.TENANT.get(env.TENANT.newUniqueId())
  await runInDurableObject(stub, async (_instance, { storage }) => {
    migrate(storage, TENANT_MIGRATIONS)
    await run(storage)
  })
}

/** Whole numbers below `end`, the same ones every time. */
function numbersFrom(seed: number): (end: number) => number {
  let state = seed
  return (end) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * end)
  }
}

function holder(id: string, dueAtMs: number): HolderRow {
  return { id, limitIds: ['concurrency/*/*/*'], slots: dueAtMs % 7, dueAtMs }
}

function settled(id: string, amountPico: bigint): Posting {
  const scope = { projectId: 'default', keyId: 'key', model: 'model' }
  const billed = { promptTokens: 10, cachedTokens: 4, outputTokens: 3 }
  const usage = { ...scope, ...billed, admittedAtMs: ADMITTED_AT_MS, priceVersion: 'v' }
  return { id, kind: 'settle', atMs: 5, from: 'tenant', to: 'revenue', amountPico, usage }
}

type Step = (store: TenantStore) => unknown

/** One thing that the core may do to its rows; what it returns is what the core would see. */
function anyStep(below: (end: number) => number): Step {
  const id = IDS[below(IDS.length)] ?? ''
  const number = below(TIMES_END_MS)
  const steps: readonly Step[] = [
    (store) => store.slots.get(id),
    (store) => store.slots.put({ id, used: number }),
    (store) => store.slots.delete(id),
    (store) => store.holders.get(id),
    (store) => store.holders.put(holder(id, number)),
    (store) => store.holders.delete(id),
    (store) => store.holders.due(number, 5),
    (store) => store.holders.firstDueMs(),
    (store) => store.expect(IDS.slice(0, below(IDS.length))),
    (store) => store.balances.get('tenant'),
    (store) => store.balances.set('tenant', 2n ** 60n - BigInt(number)),
    (store) => store.journal.find(id),
    (store) =>
      store.journal.find(id) ?? store.journal.append(settled(id, 2n ** 53n + BigInt(number))),
    // Enough at once to fill whole blocks.
    (store) => {
      for (const each of IDS) store.holders.put(holder(each, number))
    },
  ]
  const [step = (): unknown => null] = steps.slice(below(steps.length))
  return step
}

/** Everything a store holds, as the core reads it. */
function contentsOf(store: TenantStore): unknown {
  return {
    slots: IDS.map((id) => store.slots.get(id)),
    holders: IDS.map((id) => store.holders.get(id)),
    due: store.holders.due(store.holders.firstDueMs() ?? 0, IDS.length),
    journal: IDS.map((id) => store.journal.find(id)),
    balance: store.balances.get('tenant'),
  }
}

class BreaksError extends Error {}

describe('the tenant store', () => {
  it('reads and keeps what a store in memory does, also when transactions break', async () => {
    await inStorage((storage) => {
      const below = numbersFrom(11)
      const memory = memoryTenantStore()
      let store = new SqlTenantStore(storage)
      for (let round = 0; round < 200; round += 1) {
        const steps = Array.from({ length: below(30) }, () => anyStep(below))
        const breaks = below(4) === 0
        const seen: unknown[] = []
        const transaction = (): void => {
          for (const step of steps) seen.push(step(store))
          if (breaks) throw new BreaksError()
        }
        if (breaks) expect(() => store.transaction(transaction)).toThrow(BreaksError)
        else store.transaction(transaction)
        expect(seen).toEqual(steps.map((step) => step(memory)))
        if (breaks) memory.rollback()
        else memory.commit()
        // A restart has nothing but what was written.
        if (below(3) === 0) store = new SqlTenantStore(storage)
        expect(contentsOf(store)).toEqual(contentsOf(memory))
      }
      const postings = store.postings(0, 1_000).map(({ seq: _seq, ...posting }) => posting)
      expect(postings.length).toBeGreaterThan(30)
      expect(postings).toEqual(memory.postings)
    })
  })

  it('adds up what a transaction settles, under the day it was admitted on', async () => {
    await inStorage((storage) => {
      const store = new SqlTenantStore(storage)
      for (const ids of [IDS.slice(0, 40), IDS.slice(40)]) {
        store.transaction(() => {
          for (const id of ids) store.journal.append(settled(id, 2n ** 53n + 1n))
        })
      }
      const rows = storage.sql.exec('SELECT *, CAST(amount_pico AS TEXT) AS amount_pico FROM usage')
      expect(rows.toArray()).toEqual([
        {
          day: '2026-11-23',
          project_id: 'default',
          key_id: 'key',
          model: 'model',
          requests: 90,
          prompt_tokens: 900,
          cached_tokens: 360,
          completion_tokens: 270,
          amount_pico: String(90n * (2n ** 53n + 1n)),
        },
      ])
    })
  })

  it('writes no posting twice, and with it nothing else', async () => {
    await inStorage((storage) => {
      const store = new SqlTenantStore(storage)
      store.transaction(() => store.journal.append(settled('id_1', 1n)))
      const again = (): void =>
        store.transaction(() => {
          store.slots.put({ id: 'id_1', used: 7 })
          store.journal.append(settled('id_1', 2n))
        })
      expect(again).toThrow('UNIQUE')
      expect(store.slots.get('id_1')).toBeUndefined()
      expect(store.postings(0, 9)).toEqual([{ seq: 1, ...settled('id_1', 1n) }])
    })
  })

  it('changes no row outside a transaction, where nothing would write it', async () => {
    await inStorage((storage) => {
      const store = new SqlTenantStore(storage)
      expect(() => store.slots.put({ id: 'id_1', used: 7 })).toThrow('inside a transaction')
      expect(() => store.transaction(() => store.transaction(() => null))).toThrow('nested')
      expect(store.transaction(() => 'goes on')).toBe('goes on')
    })
  })
})
