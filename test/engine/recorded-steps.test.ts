import { describe, expect, it } from 'vitest'
import { ReferenceDevice } from '../../gpu-backend/src/device/reference.ts'
import { ReplayingDevice } from '../../gpu-backend/src/kernels/testing/replaying-device.ts'
import type { Model, Sequence } from '../../gpu-backend/src/model/model.ts'
import { goldenTokens, loadToyModel } from '../support/toy-model.ts'

// A device that records steps runs later ones without asking the forward pass: what a step is about
// has to lie in its tensors, and a tensor that moves has to take the record with it.

const total = 48
const tokens = goldenTokens(0, total + 1)

/** Prefills sequences of several lengths, decodes them together, more of them as it goes on. */
function serve(model: Model): Float32Array[] {
  const running: { readonly sequence: Sequence; at: number }[] = []
  const rows: Float32Array[] = []
  for (let step = 0; step < 16; step++) {
    if (step % 3 === 0) {
      const sequence = model.createSequence({ maxTokens: total })
      const start = 2 + step
      const prompt = tokens.subarray(0, start)
      rows.push(...model.forward([{ sequence, tokens: prompt, logits: 'last' }]))
      running.push({ sequence, at: start })
    }
    const segments = running.map(({ sequence, at }) => {
      return { sequence, tokens: tokens.subarray(at, at + 1), logits: 'last' as const }
    })
    rows.push(...model.forward(segments))
    for (const one of running) one.at++
  }
  for (const { sequence } of running) model.release(sequence)
  return rows
}

/** Each step followed by a draft of every row, and that by a draft of a draft. */
function draft(model: Model): Float32Array[] {
  const sequence = model.createSequence({ maxTokens: total + 1 })
  const rows: Float32Array[] = []
  for (let at = 0; at < 24; at += 2) {
    const segment = { sequence, tokens: tokens.subarray(at, at + 2), logits: 'all' as const }
    rows.push(...model.forward([segment]))
    const next = tokens.subarray(at + 1, at + 3)
    rows.push(...model.draft([{ sequence, tokens: next, after: 'forward', logits: 'last' }]))
    const guess = tokens.subarray(at + 3, at + 4)
    rows.push(...model.draft([{ sequence, tokens: guess, after: 'draft', logits: 'last' }]))
  }
  return rows
}

describe.each(['off', 'on'] as const)('recorded steps, quantisation %s', (quantisation) => {
  it('give the logits of steps that are not, while sequences come and the cache grows', async () => {
    const device = new ReplayingDevice(new ReferenceDevice())
    const { model } = await loadToyModel({ quantisation }, device)
    const { model: plain } = await loadToyModel({ quantisation })
    expect(serve(model)).toEqual(serve(plain))
    expect(device.replays).toBeGreaterThan(5)
  })

  it('give the drafts of steps that are not', async () => {
    const device = new ReplayingDevice(new ReferenceDevice())
    const { model } = await loadToyModel({ quantisation, mtp: true }, device)
    const { model: plain } = await loadToyModel({ quantisation, mtp: true })
    expect(draft(model)).toEqual(draft(plain))
    expect(device.replays).toBeGreaterThan(30)
  })
})
