import type { Device } from '../device/device.ts'
import type { Tensor } from '../device/tensor.ts'
import type { ForwardTap } from '../model/forward.ts'
import type { Model } from '../model/model.ts'
import { readF32Rows } from '../model/step.ts'

export interface LogitsReport {
  /** By position: the scores of every token to follow. */
  readonly logits: readonly Float32Array[]
  /** By position and layer: the L2 norm of all residual streams together. */
  readonly norms: readonly (readonly number[])[]
}

/** Feeds the first `prefill` tokens in one step and the others one by one. */
export function computeLogits(
  model: Model,
  device: Device,
  { tokens, prefill }: { readonly tokens: Int32Array; readonly prefill: number },
): LogitsReport {
  const sequence = model.createSequence({ maxTokens: tokens.length })
  const logits: Float32Array[] = []
  const norms: number[][] = []
  let fed = 0
  while (fed < tokens.length) {
    const step = tokens.subarray(fed, fed === 0 ? prefill : fed + 1)
    const behind: number[][] = Array.from(step, () => [])
    const tap: ForwardTap = { onLayer: (_, streams) => addNorms(device, streams, behind) }
    logits.push(...model.forward([{ sequence, tokens: step, logits: 'all' }], tap))
    norms.push(...behind)
    fed += step.length
  }
  model.release(sequence)
  return { logits, norms }
}

function addNorms(device: Device, streams: Tensor, rows: readonly number[][]): void {
  const [count = 0, width = 0, hidden = 0] = streams.shape
  const flat = { ...streams, shape: [count, width * hidden] }
  for (const [row, values] of readF32Rows(device, flat).entries()) {
    let squares = 0
    for (const value of values) squares += value * value
    rows[row]?.push(Math.sqrt(squares))
  }
}
