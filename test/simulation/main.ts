import { parseArgs } from 'node:util'
import { checkQueue } from './queue-check.ts'
import { simulate } from './simulate.ts'

/**
 * `npx node test/simulation/main.ts --seeds 1000 [--from 1] [--verbose]`: runs seeds, prints what
 * happened in them and every broken invariant, and fails if there is one.
 */
const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '50' },
    from: { type: 'string', default: '1' },
    /** Stop at the first seed that breaks something. */
    first: { type: 'boolean', default: false },
  },
})
const from = Number(values.from)
const totals: Record<string, number> = {}
let broken = 0
for (let seed = from; seed < from + Number(values.seeds); seed++) {
  const { violations, counts } = simulate(seed)
  for (const [what, count] of Object.entries(counts)) totals[what] = (totals[what] ?? 0) + count
  for (const { invariant, what, atMs } of violations.slice(0, Number(process.env['SHOW'] ?? 5))) {
    console.log(`seed ${seed}: ${invariant} at ${atMs}: ${what}`)
  }
  const queue = checkQueue(seed)
  for (const what of queue) console.log(`seed ${seed}: ${what}`)
  if (violations.length + queue.length > 0) broken++
  if (values.first && broken > 0) break
}
console.log(JSON.stringify(totals))
console.log(`${values.seeds} seeds, ${broken} with violations`)
process.exitCode = broken === 0 ? 0 : 1
