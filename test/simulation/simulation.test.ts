import { describe, expect, it } from 'vitest'
import { runNeighbours } from './fairness.ts'
import { runMutant } from './mutate.ts'
import { MUTATIONS } from './mutations.ts'
import { runPolicy } from './policies.ts'
import { checkQueue } from './queue-check.ts'
import { simulate } from './simulate.ts'
import type { SimulationResult } from './simulate.ts'

/** `SIMULATION_SEEDS=1000` is the long mode; `SIMULATION_MUTANTS=all` plants every mistake. */
const SEEDS = Number(process.env['SIMULATION_SEEDS'] ?? 30)
const EVERY_MUTANT = process.env['SIMULATION_MUTANTS'] === 'all'
const MUTANT_SEEDS = 80
/** A few that the first seeds find, of different kinds: enough to see that the auditor is awake. */
const SOON_FOUND = [
  'an isolate does not look at the clock',
  'an expired lease does not give its capacity back',
  'our failures are billed',
  'settling gives back what true-ups took',
  'the backend is asked too early',
  'lower bands starve',
  'those who wait pass one another',
  'room is lent and not subtracted',
  'a lease of turns is spent after its time',
]

/** A world takes a third of a second; what several tests ask of one, it is run once for. */
const results = new Map<number, SimulationResult>()

function resultOf(seed: number): SimulationResult {
  const known = results.get(seed) ?? simulate(seed)
  results.set(seed, known)
  return known
}

describe('a world that loses, doubles, reorders, freezes and dies', () => {
  const seeds = Array.from({ length: SEEDS }, (_, index) => index + 1)

  it.each(seeds)('breaks no invariant under seed %i', (seed) => {
    expect(resultOf(seed).violations).toEqual([])
  })

  it('is the same world under the same seed', () => {
    expect(simulate(7).fingerprint).toBe(resultOf(7).fingerprint)
    expect(resultOf(8).fingerprint).not.toBe(resultOf(7).fingerprint)
  })

  it('really has leases, crashes, refusals and records that come early', () => {
    const totals: Record<string, number> = {}
    for (const seed of seeds) {
      for (const [what, count] of Object.entries(resultOf(seed).counts)) {
        totals[what] = (totals[what] ?? 0) + count
      }
    }
    const wanted = ['leased', 'crashes', 'rate', 'balance', 'settle_parked', 'released', 'revoked']
    const waits = ['queued', 'waited', 'waited_in_vain', 'advice_behind_others']
    const turns = ['turns_by_lease', 'leases_closed', 'leases_lapsed', 'leases_forgotten']
    const missing = [...wanted, ...waits, ...turns].filter((what) => (totals[what] ?? 0) === 0)
    expect(missing).toEqual([])
  })
})

describe('the queue', () => {
  it('keeps shares, floors and room, and idles for nobody, under any arrivals', () => {
    const broken = Array.from({ length: 10 * SEEDS }, (_, seed) => checkQueue(seed)).flat()
    expect(broken).toEqual([])
  })

  it('gives backlogged tenants of weights 1 and 3 their shares within 5 % over a minute', () => {
    for (const seed of [1, 2, 3]) {
      const shares = runNeighbours(
        [
          { tenantId: 'light', weight: 1, backlog: 40 },
          { tenantId: 'heavy', weight: 3, backlog: 40 },
        ],
        60,
        seed,
      )
      const ratio = (shares.get('heavy')?.tokens ?? 0) / (shares.get('light')?.tokens ?? 1)
      expect(Math.abs(ratio / 3 - 1)).toBeLessThan(0.05)
    }
  })

  it('lets a noisy neighbour move a quiet tenant’s p95 by less than one service time', () => {
    for (const seed of [1, 2, 3]) {
      const quiet = { tenantId: 'quiet', weight: 1, perMinute: 30 }
      const other = { tenantId: 'other', weight: 1, perMinute: 60 }
      const noisy = { tenantId: 'noisy', weight: 1, perMinute: 1000 }
      const before = runNeighbours([quiet, other], 120, seed).get('quiet')
      const after = runNeighbours([quiet, other, noisy], 120, seed).get('quiet')
      const moved = p95(after?.waits ?? []) - p95(before?.waits ?? [])
      expect(after?.waits.length).toBeGreaterThan(20)
      expect(moved).toBeLessThan(after?.serviceMs ?? 0)
    }
  })
})

describe('the policy', () => {
  it('keeps bursts of 50 within 1.06 of the cap and uses 0.88 of it', () => {
    const runs = Array.from({ length: 20 }, (_, index) =>
      runPolicy('ours', 'bursts of 50', index + 1),
    )
    expect(mean(runs.map((run) => run.worstMinute)).toFixed(2)).toBe('1.06')
    expect(mean(runs.map((run) => run.utilisation)).toFixed(2)).toBe('0.88')
  })

  it('is better than what others do', () => {
    const worst = (policy: Parameters<typeof runPolicy>[0]): number =>
      runPolicy(policy, 'bursts of 50', 1).worstMinute
    const ours = worst('ours')
    expect(worst('after_response')).toBeGreaterThan(2 * ours)
    expect(worst('reserve_p90')).toBeGreaterThan(1.4 * ours)
    expect(worst('reserve_max_tokens')).toBeGreaterThan(1.1 * ours)
  })
})

describe('a planted mistake', () => {
  const planted = MUTATIONS.filter(({ name }) => EVERY_MUTANT || SOON_FOUND.includes(name))

  it('is one of the list', () => {
    const names = MUTATIONS.map(({ name }) => name)
    expect(SOON_FOUND.filter((name) => !names.includes(name))).toEqual([])
  })

  it.each(planted)('is found: $name', async (mutation) => {
    const { line } = await runMutant(mutation, MUTANT_SEEDS)
    expect(line).not.toBeNull()
  })
})

function p95(ascending: readonly number[]): number {
  return ascending[Math.ceil(ascending.length * 0.95) - 1] ?? 0
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length
}
