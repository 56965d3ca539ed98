import { describe, expect, it } from 'vitest'
import { openFakeCuda } from '../../gpu-backend/src/device/cuda/testing/fake-device.ts'
import type { Device } from '../../gpu-backend/src/device/device.ts'
import type { OpName, OpTable } from '../../gpu-backend/src/kernels/registry.ts'
import { goldenTokens, loadToyModel } from '../support/toy-model.ts'

// How many kernels a decode step launches, layer by layer, where steps are recorded: launches that can
// be one with their neighbours are. Shapes of the toy, whose layers have the released models' ops.

const kernelsOfLayerMax = 14
const prompt = 40

const fake = await openFakeCuda()

/** An op with its arguments, to be run again. */
type Call = (device: Device) => void

/** A device that notes what it runs and records no steps of its own. */
function watched(device: Device, calls: Call[]): Device {
  return {
    name: device.name,
    formats: device.formats,
    alloc: (bytes, label) => device.alloc(bytes, label),
    free: (buffer) => device.free(buffer),
    write: (buffer, offset, bytes) => device.write(buffer, offset, bytes),
    read: (buffer, offset, into) => device.read(buffer, offset, into),
    run: <Op extends OpName>(op: Op, args: OpTable[Op]) => {
      calls.push(Object.assign((on: Device) => on.run(op, args), { op }))
      device.run(op, args)
    },
    synchronise: () => device.synchronise(),
    memory: () => device.memory(),
    close: () => device.close(),
  }
}

/** Ops of a step by layer: each has two ways in, the second of them the expert's. */
function layersOf(calls: readonly Call[]): readonly (readonly Call[])[] {
  const entrances = calls.flatMap((call, i) => (opOf(call) === 'hc-pre' ? [i] : []))
  const starts = entrances.filter((_, i) => i % 2 === 0)
  const end = calls.findLastIndex((call) => opOf(call) === 'experts') + 1
  return starts.map((start, i) => calls.slice(start, starts[i + 1] ?? end))
}

function opOf(call: Call): string {
  return 'op' in call ? String(call.op) : ''
}

function kindOf(layer: readonly Call[]): string {
  const ops = layer.map(opOf)
  if (ops.includes('index-select')) return 'compressed, selected'
  return ops.includes('compress') ? 'compressed' : 'window'
}

describe.skipIf('reason' in fake)('a decode step on CUDA', () => {
  it.each([1, 2])(`launches few kernels a layer, for %i sequences`, async (sequences) => {
    if ('reason' in fake) return
    const device = fake.open()
    const calls: Call[] = []
    const { model } = await loadToyModel({ quantisation: 'on' }, watched(device, calls))
    const tokens = goldenTokens(0, prompt + 1)
    const opened = Array.from({ length: sequences }, () =>
      model.createSequence({ maxTokens: prompt + 1 }),
    )
    for (const sequence of opened) {
      model.forward([{ sequence, tokens: tokens.subarray(0, prompt), logits: 'none' }])
    }
    calls.length = 0
    model.forward(
      opened.map((sequence) => ({ sequence, tokens: tokens.subarray(prompt), logits: 'last' })),
    )
    const launched = new Map<string, number>()
    for (const [i, layer] of layersOf(calls).entries()) {
      device.synchronise()
      const before = fake.machine.report().kernels
      device.replay(`layer ${i}`, () => layer.forEach((call) => call(device)))
      device.synchronise()
      launched.set(kindOf(layer), fake.machine.report().kernels - before)
    }
    device.close()
    expect(Object.fromEntries(launched)).toEqual({
      'compressed, selected': 13,
      compressed: 12,
      window: 12,
    })
    expect(Math.max(...launched.values())).toBeLessThanOrEqual(kernelsOfLayerMax)
  })
})
