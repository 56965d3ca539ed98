import type { Device } from '../../gpu-backend/src/device/device.ts'
import { ReferenceDevice } from '../../gpu-backend/src/device/reference.ts'
import {
  loadModel,
  type LoadModelOptions,
  type Model,
  type Sequence,
} from '../../gpu-backend/src/model/model.ts'
import { openToyCheckpoint } from '#weights/toy/open-toy.ts'

/** The golden sequence's token at `position`. */
export function goldenToken(position: number): number {
  return (7 * position ** 2 + 3 * position + 5) % 512
}

/** Golden tokens from `start` up to, not including, `end`. */
export function goldenTokens(start: number, end: number): Int32Array {
  return Int32Array.from({ length: end - start }, (_, i) => goldenToken(start + i))
}

/** The toy on a device of its own: a reference device unless another is given. */
export async function loadToyModel(
  options: Partial<LoadModelOptions> = {},
  device: Device = new ReferenceDevice(),
): Promise<{ readonly model: Model; readonly device: Device }> {
  const model = await loadModel(await openToyCheckpoint(), device, {
    quantisation: 'off',
    ...options,
  })
  return { model, device }
}

/** Feeds tokens in steps that end at `cuts`, and gives the logits behind each. */
export function feed(
  model: Model,
  sequence: Sequence,
  tokens: Int32Array,
  cuts: readonly number[] = [tokens.length],
): Float32Array[] {
  let start = 0
  return cuts.flatMap((end) => {
    const step = tokens.subarray(start, end)
    start = end
    return [...model.forward([{ sequence, tokens: step, logits: 'all' }])]
  })
}

/** Cuts that make a first step of `prefill` tokens and then one step a token. */
export function prefillThenOnes(prefill: number, total: number): number[] {
  return Array.from({ length: total - prefill + 1 }, (_, i) => prefill + i)
}
