import type { OpCase } from '../testing/case.ts'
import { exactly, joined, multiply } from '../testing/estimate.ts'
import {
  generateValues,
  generateWeight,
  isStructured,
  type ValueStyle,
  type WeightFormat,
} from '../testing/generate.ts'
import { groupedLinear } from './grouped-linear.ts'

// Bound: as of `linear` over one group's inputs; nothing is rounded to FP8 here.

interface Parameters {
  readonly rows: number
  readonly groups: number
  /** Inputs and outputs of one group. */
  readonly width: number
  readonly rank: number
  readonly format?: WeightFormat
  readonly values?: ValueStyle
  readonly size?: OpCase['size']
}

function groupedCase(parameters: Parameters): OpCase {
  const { rows, groups, width, rank, size = 'toy' } = parameters
  const { format = 'f8e4m3', values: style = 'normal' } = parameters
  return {
    op: 'grouped-linear',
    name: `rows=${rows} groups=${groups} in=${width} rank=${rank} ${format} ${style}`,
    size,
    prepare(bench) {
      const { random, numerics } = bench
      const count = rows * groups * width
      const values = generateValues(random, count, style)
      const input = bench.activation('input', [rows, groups * width], values)
      const weight = generateWeight(random, format, [groups * rank, width])
      const output = bench.outputActivation('output', [rows, groups * rank])
      const args = {
        input: input.tensor,
        weight: bench.weight('weight', weight, groups),
        groups,
        output: output.tensor,
      }
      const options = {
        sum: numerics.products,
        form: numerics.inputs[format],
        structured: isStructured(style),
      }
      return {
        run: () => groupedLinear(bench.device, args),
        check() {
          // Input row `row` and group `group` lie one after the other in both tensors.
          const results = Array.from({ length: rows * groups }, (_, at) => {
            const x = input.values.subarray(at * width, (at + 1) * width)
            const first = (at % groups) * rank * width
            const block = weight.values.subarray(first, first + rank * width)
            return multiply(exactly(x), { values: block, rows: rank, width }, options)
          })
          bench.expectReals(output, joined(results))
        },
      }
    },
  }
}

export const groupedLinearCases: readonly OpCase[] = [
  groupedCase({ rows: 0, groups: 2, width: 64, rank: 32 }),
  groupedCase({ rows: 1, groups: 1, width: 64, rank: 1 }),
  groupedCase({ rows: 3, groups: 2, width: 256, rank: 128 }),
  groupedCase({ rows: 5, groups: 3, width: 96, rank: 40 }),
  groupedCase({ rows: 18, groups: 4, width: 128, rank: 48, values: 'outliers' }),
  groupedCase({ rows: 2, groups: 2, width: 128, rank: 64, values: 'ties8' }),
  groupedCase({ rows: 2, groups: 2, width: 128, rank: 64, values: 'tiny' }),
  groupedCase({ rows: 2, groups: 2, width: 160, rank: 32, format: 'bf16' }),
  groupedCase({ rows: 2, groups: 2, width: 160, rank: 32, format: 'f32' }),
  groupedCase({ rows: 1, groups: 8, width: 4096, rank: 64, size: 'real' }),
  groupedCase({ rows: 1, groups: 16, width: 4096, rank: 24, size: 'real' }),
]
