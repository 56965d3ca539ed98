import { describe, expect, it } from 'vitest'
import { openToyCheckpoint } from '#weights/toy/open-toy.ts'
import { GpuGroup } from '../../gpu-backend/src/device/cuda/group.ts'
import { openFakeCuda } from '../../gpu-backend/src/device/cuda/testing/fake-device.ts'
import { loadModel, type Model } from '../../gpu-backend/src/model/model.ts'
import { goldenTokens, loadToyModel } from '../support/toy-model.ts'

// The toy on two GPUs that are not there: the same kernels as on one, each other's memory read where it
// lies, and steps of both recorded as one graph. Bits are those of one GPU.

const total = 9
const texts = [0, 1, 2].map((seed) =>
  goldenTokens(0, total).map((token) => (token * (seed + 1) + seed) % 512),
)
const cache = { sequencesMax: 4, tokensMax: 1024, prefixesMax: 0 }

const probe = await openFakeCuda()
if ('reason' in probe) console.warn(`skipped: no CUDA kernels on the host, ${probe.reason}`)

/** A prompt, a text that comes later, and single tokens; the third text has one GPU to itself. */
function serve(model: Model, devices: readonly number[]): Float32Array[] {
  const sequences = texts.map((_, i) => {
    const on = devices[i]
    return model.createSequence({ maxTokens: total, ...(on === undefined ? {} : { on }) })
  })
  const segment = (i: number, from: number, to: number) => {
    const sequence = sequences[i]
    const tokens = texts[i]?.subarray(from, to)
    if (sequence === undefined || tokens === undefined) throw new RangeError(`no text ${i}`)
    return { sequence, tokens, logits: 'last' as const }
  }
  const rows = [
    // Nothing on the other GPU yet, which helps all the same.
    ...model.forward([segment(0, 0, 5)]),
    ...model.forward([segment(2, 0, 1), segment(0, 5, 6), segment(1, 0, 6)]),
  ]
  for (let at = 6; at < total; at++) {
    rows.push(
      ...model.forward([
        segment(1, at, at + 1),
        segment(0, at, at + 1),
        segment(2, at - 5, at - 4),
      ]),
    )
  }
  return rows
}

const open = async () => {
  const fake = await openFakeCuda({ devices: 2 })
  if ('reason' in fake) throw new Error(fake.reason)
  const group = new GpuGroup(fake.driver, fake.images, [0, 1])
  const model = await loadModel(await openToyCheckpoint(), group, { quantisation: 'on', cache })
  return { group, model, machine: fake.machine }
}

describe.skipIf('reason' in probe)('a model on two GPUs', () => {
  it('gives the bits of one, live and in graphs over both', async () => {
    if ('reason' in probe) return
    const alone = await openFakeCuda()
    if ('reason' in alone) throw new Error(alone.reason)
    const { model: one, device } = await loadToyModel({ quantisation: 'on', cache }, alone.open())
    const expected = serve(one, [])
    const { allocatedBytes } = device.memory()
    device.close()
    const { group, model, machine } = await open()
    expect(serve(model, [0, 1, 1])).toEqual(expected)
    expect(group.replays).toBe(2)
    expect(machine.report()).toMatchObject({ graphLaunches: 2, fault: '' })
    // Half of the routed experts are not on either of them.
    for (const gpu of group.devices)
      expect(gpu.memory().allocatedBytes).toBeLessThan(allocatedBytes)
    model.close()
    for (const gpu of group.devices) expect(gpu.memory()).toMatchObject({ buffers: 0 })
    group.close()
    expect(machine.report()).toMatchObject({ buffers: 0, handles: 0 })
  })

  it('shows it where they do not wait for each other', async () => {
    const careful = await open()
    const expected = first(careful.model)
    careful.group.close()
    const { group, model } = await open()
    group.meet = () => undefined
    expect(first(model)).not.toEqual(expected)
    group.close()
  })

  it('is lost with one of them, and goes on saying so', async () => {
    const { group, model } = await open()
    const [, second] = group.devices
    if (second === undefined) throw new Error('there are two')
    const buffer = second.alloc(4, 'something')
    const gone = { buffer, byteOffset: 0, dtype: 'f32' as const, shape: [1] }
    // Behind the device's back: a kernel is given an address of nothing.
    second.context.release(second.address(gone))
    second.run('copy', { from: gone, to: gone })
    for (let times = 0; times < 2; times++) {
      expect(() => first(model)).toThrow(
        expect.objectContaining({ code: 'device_failed', device: 'cuda' }),
      )
    }
    group.close()
  })
})

/** Logits behind a few tokens on each GPU. */
function first(model: Model): readonly Float32Array[] {
  const sequences = [0, 1].map((on) => model.createSequence({ maxTokens: 4, on }))
  const rows = model.forward(
    sequences.map((sequence) => {
      return { sequence, tokens: goldenTokens(0, 4), logits: 'last' as const }
    }),
  )
  for (const sequence of sequences) model.release(sequence)
  return rows
}
