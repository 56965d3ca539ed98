import type { Device } from '../../device/device.ts'
import { rowCount, type Tensor } from '../../device/tensor.ts'
import { OpCheck } from '../check.ts'

/** How a layer finds a token's experts. */
export type ExpertChoice =
  /** The largest of score + bias; f32 `[experts]`. Ties go to the lower expert. */
  | { readonly by: 'score'; readonly bias: Tensor }
  /** A fixed table, i32 `[vocabulary, experts a token]`. */
  | { readonly by: 'token'; readonly table: Tensor }

/**
 * Scores a = sqrt(softplus(gate·v)), picks each row's experts, and weighs them by
 * a ÷ Σ a of the picked, times `scalingFactor`. The bias chooses and never weighs.
 */
export interface RouteArgs {
  /** `[rows, hidden]`. */
  readonly input: Tensor
  /** Token ids i32 `[rows]`. */
  readonly tokens: Tensor
  /** `[experts, hidden]`. */
  readonly gate: Tensor
  readonly choice: ExpertChoice
  readonly scalingFactor: number
  /** Outputs `[rows, experts a token]`: i32 expert numbers, largest first or as in the table; f32. */
  readonly experts: Tensor
  readonly weights: Tensor
}

const check = new OpCheck('route')

export function route(device: Device, args: RouteArgs): void {
  const rows = rowCount(args.input)
  const [count = 0, hidden = 0] = args.gate.shape
  const picked = args.experts.shape[1] ?? 0
  check.activation('input', args.input, [rows, hidden])
  check.i32('tokens', args.tokens, [rows])
  check.tensor('gate', args.gate, ['bf16', 'f32'], [count, hidden])
  if (args.choice.by === 'score') {
    check.f32('bias', args.choice.bias, [count])
  } else {
    check.i32('table', args.choice.table, [rowCount(args.choice.table), picked])
  }
  check.i32('experts', args.experts, [rows, picked])
  check.f32('weights', args.weights, [rows, picked])
  check.that(picked >= 1 && picked <= count, `${picked} of ${count} experts can be picked`)
  check.distinct([args.experts, args.weights], [args.input, args.tokens])
  if (rows > 0) device.run('route', args)
}
