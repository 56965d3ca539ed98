import type { Bench, OpCase, Output } from '../testing/case.ts'
import { type Estimate, exactly, joined, multiply } from '../testing/estimate.ts'
import {
  type GeneratedWeight,
  generateValues,
  generateWeight,
  isStructured,
  type ValueStyle,
  type WeightFormat,
  type WeightStyle,
} from '../testing/generate.ts'
import { fp8Inputs, roundBlocks } from '../testing/oracle/formats.ts'
import { manyRows } from '../testing/numerics.ts'
import { linear } from './linear.ts'

// Bound, for y = Σ_i x_i·w_i over n inputs: x is exact where it is rounded to FP8 (a cast, by
// definition), and otherwise as far off as the device's form for this weight says; n additions;
// one rounding of y. `multiply` puts them together.

interface Part {
  readonly format: WeightFormat
  readonly outputs: number
  /** Of the output; the device's activations unless told otherwise. */
  readonly kept?: 'f32'
}

interface Parameters {
  readonly rows: number
  readonly width: number
  readonly parts: readonly Part[]
  readonly quantise?: boolean
  readonly values?: ValueStyle
  readonly weights?: WeightStyle
  readonly size?: OpCase['size']
}

interface PlacedPart {
  readonly weight: GeneratedWeight
  readonly output: Output
}

function linearCase(parameters: Parameters): OpCase {
  const { rows, width, parts, quantise = false, size = 'toy' } = parameters
  const { values: style = 'normal', weights = 'plain' } = parameters
  const partNames = parts.map(({ format, outputs, kept }) => `${format}·${outputs}${kept ?? ''}`)
  return {
    op: 'linear',
    name:
      `rows=${rows} in=${width} out=${partNames.join('+')} ${style} ${weights}` +
      (quantise ? ' quantise' : ''),
    size,
    prepare(bench) {
      const input = bench.activation(
        'input',
        [rows, width],
        generateValues(bench.random, rows * width, style),
      )
      const placed = parts.map(({ format, outputs, kept }, index) => {
        const weight = generateWeight(bench.random, format, [outputs, width], weights)
        const dtype = kept ?? bench.formats.activations
        const output = bench.output(`output ${index}`, dtype, [rows, outputs])
        return { weight, output }
      })
      const args = {
        input: input.tensor,
        quantise,
        parts: placed.map(({ weight, output }, index) => ({
          weight: bench.weight(`weight ${index}`, weight),
          output: output.tensor,
        })),
      }
      const x = { values: input.values, width, quantise, structured: isStructured(style) }
      return {
        run: () => linear(bench.device, args),
        check() {
          for (const part of placed) bench.expectReals(part.output, product(bench, x, part))
        },
      }
    },
  }
}

interface InputRows {
  readonly values: Float64Array
  readonly width: number
  readonly quantise: boolean
  readonly structured: boolean
}

function product(bench: Bench, input: InputRows, { weight, output }: PlacedPart): Estimate {
  const { width, structured } = input
  const { dtype, values } = weight
  const { numerics } = bench
  const [rows = 0, outputs = 0] = output.tensor.shape
  const rounded = input.quantise && (dtype === 'f8e4m3' || dtype === 'fp4')
  const sum = (rounded && rows >= manyRows ? numerics.rounded : undefined) ?? numerics.products
  const options = { sum, form: numerics.inputs[dtype], structured }
  const results = Array.from({ length: rows }, (_, row) => {
    const x = input.values.subarray(row * width, (row + 1) * width)
    const matrix = { values, rows: outputs, width }
    return multiply(exactly(rounded ? roundBlocks(x, fp8Inputs) : x), matrix, options)
  })
  return joined(results)
}

const formats: readonly WeightFormat[] = ['f32', 'bf16', 'f8e4m3', 'fp4']
const scaled: readonly WeightFormat[] = ['f8e4m3', 'fp4']

export const linearCases: readonly OpCase[] = [
  linearCase({ rows: 0, width: 128, parts: [{ format: 'fp4', outputs: 16 }] }),
  ...formats.flatMap((format) => [
    linearCase({ rows: 1, width: 32, parts: [{ format, outputs: 1 }] }),
    linearCase({ rows: 2, width: 256, parts: [{ format, outputs: 130 }] }),
    linearCase({ rows: 3, width: 416, parts: [{ format, outputs: 67 }], weights: 'wide' }),
    linearCase({ rows: 17, width: 128, parts: [{ format, outputs: 48 }], values: 'outliers' }),
    linearCase({ rows: 2, width: 96, parts: [{ format, outputs: 33 }], values: 'large' }),
    linearCase({ rows: 2, width: 64, parts: [{ format, outputs: 20 }], values: 'tiny' }),
    linearCase({ rows: 1, width: 160, parts: [{ format, outputs: 16 }], values: 'zeros' }),
  ]),
  ...(['f32', 'bf16', 'f8e4m3'] as const).map((format) =>
    linearCase({ rows: 2, width: 37, parts: [{ format, outputs: 5 }] }),
  ),
  ...scaled.flatMap((format) => [
    ...(['normal', 'outliers', 'tiny', 'ties8', 'edges8', 'zeros'] as const).map((values) =>
      linearCase({ rows: 3, width: 256, parts: [{ format, outputs: 40 }], values, quantise: true }),
    ),
    linearCase({ rows: 35, width: 384, parts: [{ format, outputs: 144 }], quantise: true }),
  ]),
  linearCase({
    rows: 5,
    width: 256,
    quantise: true,
    parts: [
      { format: 'f8e4m3', outputs: 128 },
      { format: 'f8e4m3', outputs: 64 },
      { format: 'bf16', outputs: 256, kept: 'f32' },
      { format: 'bf16', outputs: 4, kept: 'f32' },
      { format: 'fp4', outputs: 48 },
    ],
  }),
  linearCase({ rows: 130, width: 128, parts: [{ format: 'f8e4m3', outputs: 80 }], quantise: true }),
  linearCase({
    rows: 66,
    width: 1152,
    quantise: true,
    values: 'outliers',
    weights: 'wide',
    parts: [
      { format: 'f8e4m3', outputs: 131 },
      { format: 'bf16', outputs: 7 },
    ],
  }),
  linearCase({
    rows: 1,
    width: 4096,
    quantise: true,
    size: 'real',
    parts: [
      { format: 'f8e4m3', outputs: 272 },
      { format: 'f8e4m3', outputs: 130 },
    ],
  }),
  linearCase({
    rows: 1,
    width: 7168,
    quantise: true,
    size: 'real',
    parts: [
      { format: 'f8e4m3', outputs: 200 },
      { format: 'bf16', outputs: 96, kept: 'f32' },
    ],
  }),
  linearCase({
    rows: 2,
    width: 16_384,
    quantise: true,
    size: 'real',
    parts: [{ format: 'f8e4m3', outputs: 64 }],
  }),
  linearCase({ rows: 1, width: 4096, size: 'real', parts: [{ format: 'fp4', outputs: 256 }] }),
  linearCase({ rows: 1, width: 7168, size: 'real', parts: [{ format: 'bf16', outputs: 70 }] }),
]
