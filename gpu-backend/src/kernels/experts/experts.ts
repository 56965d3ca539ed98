import type { Device } from '../../device/device.ts'
import { type LinearWeight, rowCount, type Tensor } from '../../device/tensor.ts'
import { OpCheck } from '../check.ts'
import { activationBlock } from '../numerics/simulate.ts'

/** The three projections of one expert, or of a stack of them: `[…, width, hidden]` twice, then
 * `[…, hidden, width]`. */
export interface ExpertWeights {
  readonly gate: LinearWeight
  readonly up: LinearWeight
  readonly down: LinearWeight
}

/**
 * y = Σ over a row's experts of down · t, t = silu(min(gate·v, limit)) · clamp(up·v, ±limit) · w,
 * plus the shared expert with w = 1. The routing weight goes in before `down`, so that it takes
 * part in the rounding of t. With `part` nothing is added up: `expert-sum` does that.
 */
export interface ExpertsArgs {
  /** `[rows, hidden]`. */
  readonly input: Tensor
  /** i32 and f32 `[rows, experts a token]`, from `route`. */
  readonly experts: Tensor
  readonly weights: Tensor
  /** Stacks over all experts, or over those of `part`. */
  readonly routed: ExpertWeights
  readonly shared: ExpertWeights
  readonly limit: number
  /** Round v and t to FP8 per 128. */
  readonly quantise: boolean
  /** Output `[rows, hidden]`; with `part` what the shared expert makes of `part`'s own rows. */
  readonly output: Tensor
  /** Where several devices share a layer's experts. */
  readonly part?: ExpertsPart
}

/** One device's experts, for the rows of all devices. */
export interface ExpertsPart {
  /** The first of the stacks; places of a row that went to others are not touched. */
  readonly firstExpert: number
  /** Rows of its own begin here, as many as the output has. */
  readonly firstRow: number
  /** Output f32 `[rows, experts a token, hidden]`: what each place's expert makes of its row. */
  readonly results: Tensor
}

const check = new OpCheck('experts')

export function experts(device: Device, args: ExpertsArgs): void {
  const [rows = 0, hidden = 0] = args.input.shape
  const [count = 0, width = 0] = args.routed.gate.weight.shape
  const picked = args.experts.shape[1] ?? 0
  check.activation('input', args.input, [rows, hidden])
  check.i32('experts', args.experts, [rows, picked])
  check.f32('weights', args.weights, [rows, picked])
  check.linear('gate', args.routed.gate, [count, width, hidden])
  check.linear('up', args.routed.up, [count, width, hidden])
  check.linear('down', args.routed.down, [count, hidden, width])
  const sharedWidth = rowCount(args.shared.gate.weight)
  check.linear('shared gate', args.shared.gate, [sharedWidth, hidden])
  check.linear('shared up', args.shared.up, [sharedWidth, hidden])
  check.linear('shared down', args.shared.down, [hidden, sharedWidth])
  const ownRows = args.part === undefined ? rows : rowCount(args.output)
  check.activation('output', args.output, [ownRows, hidden])
  check.that(
    !args.quantise || [hidden, width, sharedWidth].every((n) => n % activationBlock === 0),
    `${hidden}, ${width} and ${sharedWidth} divide into blocks of ${activationBlock}`,
  )
  check.distinct(outputsOf(args), [args.input, args.experts, args.weights])
  if (args.part !== undefined) {
    const { firstRow, firstExpert, results } = args.part
    check.f32('results', results, [rows, picked, hidden])
    check.that(
      firstExpert >= 0 && firstRow >= 0 && firstRow + ownRows <= rows,
      `rows ${firstRow}…${firstRow + ownRows} are among ${rows}`,
    )
  }
  if (rows > 0) device.run('experts', args)
}

function outputsOf({ output, part }: ExpertsArgs): readonly Tensor[] {
  return part === undefined ? [output] : [output, part.results]
}
