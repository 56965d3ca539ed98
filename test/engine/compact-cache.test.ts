import { describe, expect, it } from 'vitest'
import { openToyCheckpoint } from '#weights/toy/open-toy.ts'
import { ReferenceDevice } from '../../gpu-backend/src/device/reference.ts'
import type { Tensor } from '../../gpu-backend/src/device/tensor.ts'
import { fromBf16, toBf16 } from '../../gpu-backend/src/kernels/numerics/bf16.ts'
import type { OpTable } from '../../gpu-backend/src/kernels/registry.ts'
import { type LoadModelOptions, loadModel, type Model } from '../../gpu-backend/src/model/model.ts'
import { feed, goldenTokens, loadToyModel, prefillThenOnes } from '../support/toy-model.ts'

const total = 140

/** Keeps keys in fp32, with the rotated part rounded to bf16: what compact rows stand for. */
class RoundingDevice extends ReferenceDevice {
  override run<Op extends keyof OpTable>(op: Op, args: OpTable[Op]): void {
    super.run(op, args)
    if ('keyNorm' in args) this.#roundTails(args.keys, 2 * (args.frequencies.shape[0] ?? 0))
    if ('use' in args && args.use === 'keys') {
      this.#roundTails(args.entries, 2 * (args.frequencies.shape[0] ?? 0))
    }
  }

  #roundTails(tensor: Tensor, rotated: number): void {
    const values = this.f32(tensor)
    const width = tensor.shape.at(-1) ?? 0
    for (let row = 0; row < values.length; row += width) {
      const tail = values.subarray(row + width - rotated, row + width)
      for (const [i, value] of tail.entries()) tail[i] = fromBf16(toBf16(value))
    }
  }
}

async function toyOn(
  device: ReferenceDevice,
  cacheRows: NonNullable<LoadModelOptions['cacheRows']>,
): Promise<Model> {
  return loadModel(await openToyCheckpoint(), device, { quantisation: 'on', cacheRows })
}

function run(model: Model, cuts: readonly number[] = [total]): Float32Array[] {
  const sequence = model.createSequence({ maxTokens: total })
  return feed(model, sequence, goldenTokens(0, total), cuts)
}

describe('a cache of compact rows', () => {
  it('gives the bits of fp32 rows whose rotated part is bf16', async () => {
    const compact = await toyOn(new ReferenceDevice(), 'compact')
    const plain = await toyOn(new RoundingDevice(), 'plain')
    expect(run(compact)).toEqual(run(plain))
  })

  it('gives the same bits however a text is cut into steps', async () => {
    const { model } = await loadToyModel({ quantisation: 'on' })
    const whole = run(model)
    expect(run(model, prefillThenOnes(1, total))).toEqual(whole)
    expect(run(model, [3, 40, 41, 130, total])).toEqual(whole)
  })

  it('is the default where values are rounded, and takes less', async () => {
    const bytes = async (options: Partial<LoadModelOptions>): Promise<number> => {
      const { model } = await loadToyModel(options)
      run(model)
      return model.capacity().bytesAllocated
    }
    const compact = await bytes({ quantisation: 'on' })
    expect(compact).toBe(await bytes({ quantisation: 'on', cacheRows: 'compact' }))
    expect(compact).toBeLessThan(await bytes({ quantisation: 'on', cacheRows: 'plain' }))
    expect(await bytes({ quantisation: 'off' })).toBe(
      await bytes({ quantisation: 'off', cacheRows: 'plain' }),
    )
  })
})
