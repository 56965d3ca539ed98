import { runPolicy } from './policies.ts'
import type { Policy, PolicyResult, Shape } from './policies.ts'

/** `npx node test/simulation/policies-table.ts`: the table of policies, over 20 seeds. */
const SEEDS = 20
const SHAPES: readonly Shape[] = ['poisson', 'bursts of 50', 'bursts of 300']
const POLICIES: readonly (readonly [Policy, string])[] = [
  ['after_response', 'count after the response'],
  ['reserve_max_tokens', 'reserve `max_tokens`'],
  ['reserve_p90', "reserve the tenant's p90 output"],
  ['ours_at_once', 'ours, with `X-Max-Wait: 0`: refused at once'],
  ['ours', 'ours: waits up to 30 s'],
]

console.log(`| policy | ${SHAPES.join(' | ')} |`)
console.log(`|---|${SHAPES.map(() => '---|').join('')}`)
for (const [policy, name] of POLICIES) {
  const cells = SHAPES.map((shape) => {
    const runs = Array.from({ length: SEEDS }, (_, index) => runPolicy(policy, shape, index + 1))
    const worst = runs.map((run) => run.worstMinute)
    const used = mean(runs.map((run) => run.utilisation))
    return `${mean(worst).toFixed(2)} (${Math.max(...worst).toFixed(2)}), ${used.toFixed(2)} used`
  })
  console.log(`| ${name} | ${cells.join(' | ')} |`)
}

function mean(values: readonly PolicyResult['worstMinute'][]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length
}
