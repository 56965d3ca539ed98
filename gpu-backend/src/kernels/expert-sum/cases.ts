import type { OpCase } from '../testing/case.ts'
import { generateValues } from '../testing/generate.ts'
import { expertSum } from './expert-sum.ts'

// Bound: k + 1 additions in line, each off by at most a unit of what has been added up so far.

interface Parameters {
  readonly rows: number
  readonly hidden: number
  readonly experts: number
  readonly picked: number
  readonly devices: number
  /** Rows of other devices before and behind. */
  readonly before?: number
  readonly behind?: number
}

function expertSumCase(parameters: Parameters): OpCase {
  const { rows, hidden, experts, picked, devices, before = 0, behind = 0 } = parameters
  const allRows = before + rows + behind
  const expertsEach = Math.ceil(experts / devices)
  return {
    op: 'expert-sum',
    name:
      `rows=${rows} from ${before} of ${allRows} hidden=${hidden} ` +
      `experts=${picked} of ${experts} on ${devices}`,
    size: 'toy',
    prepare(bench) {
      const { random } = bench
      const picks = Array.from({ length: rows }, () =>
        random.permutation(experts).slice(0, picked),
      ).flat()
      const count = allRows * picked * hidden
      const results = Array.from({ length: devices }, (_, device) =>
        bench.f32(
          `results ${device}`,
          [allRows, picked, hidden],
          generateValues(random, count, 'normal'),
        ),
      )
      const shared = generateValues(random, rows * hidden, 'normal')
      const output = bench.changing('output', bench.formats.activations, [rows, hidden], shared)
      const stood = bench.readValues(output)
      const args = {
        experts: bench.i32('experts', [rows, picked], picks),
        results: results.map(({ tensor }) => tensor),
        expertsEach,
        firstRow: before,
        output: output.tensor,
      }
      return {
        run: () => expertSum(bench.device, args),
        check() {
          const value = stood.slice()
          const certain = new Float64Array(value.length)
          for (let i = 0; i < value.length; i++) {
            const row = Math.floor(i / hidden)
            let magnitude = Math.abs(value[i] ?? 0)
            for (let slot = 0; slot < picked; slot++) {
              const owner = Math.floor((picks[row * picked + slot] ?? 0) / expertsEach)
              const at = ((before + row) * picked + slot) * hidden + (i % hidden)
              const term = results[owner]?.values[at] ?? Number.NaN
              value[i] = (value[i] ?? 0) + term
              magnitude += Math.abs(term)
            }
            certain[i] = (picked + 1) * bench.numerics.step * magnitude
          }
          bench.expectReals(output, { value, certain, spread: new Float64Array(value.length) })
        },
      }
    },
  }
}

export const expertSumCases: readonly OpCase[] = [
  expertSumCase({ rows: 0, hidden: 32, experts: 4, picked: 2, devices: 2, behind: 1 }),
  expertSumCase({ rows: 1, hidden: 256, experts: 8, picked: 2, devices: 1 }),
  expertSumCase({ rows: 3, hidden: 256, experts: 8, picked: 2, devices: 2, before: 2, behind: 1 }),
  expertSumCase({ rows: 5, hidden: 300, experts: 13, picked: 6, devices: 3, before: 4 }),
  expertSumCase({ rows: 2, hidden: 7, experts: 16, picked: 6, devices: 16, before: 1, behind: 9 }),
]
