import { beforeAll, describe, expect, it } from 'vitest'
import { openToyCheckpoint } from '#weights/toy/open-toy.ts'
import type { Device } from '../../gpu-backend/src/device/device.ts'
import type { DeviceGroup } from '../../gpu-backend/src/device/group.ts'
import type { OpName, OpTable } from '../../gpu-backend/src/kernels/registry.ts'
import { PassingDevice } from '../../gpu-backend/src/kernels/testing/passing-device.ts'
import { loadModel, type LoadModelOptions, type Model } from '../../gpu-backend/src/model/model.ts'
import { groupOfOne } from '../support/device-groups.ts'
import { cpuDevice, referenceDevice } from '../support/model-devices.ts'
import { feed, goldenTokens, loadToyModel } from '../support/toy-model.ts'

// A model whose experts several devices share gives the bits of one that has them all, wherever its
// sequences are. The toy has eight experts a layer, two of a token.

const total = 40
const texts = [0, 1, 2].map((seed) =>
  goldenTokens(0, total + 2).map((token) => (token * (seed + 1) + seed) % 512),
)

async function split(group: DeviceGroup, options: Partial<LoadModelOptions> = {}): Promise<Model> {
  return loadModel(await openToyCheckpoint(), group, { quantisation: 'on', ...options })
}

/** Three texts in steps of several lengths, one beginning after the other, on devices in turn. */
function together(model: Model): Float32Array[][] {
  const sequences = texts.map((_, i) =>
    model.createSequence({ maxTokens: total, on: i % model.deviceCount }),
  )
  const found: Float32Array[][] = texts.map(() => [])
  const fed = texts.map(() => 0)
  for (let step = 0; fed.some((count) => count < total); step++) {
    const members = sequences.flatMap((sequence, i) => {
      const start = fed[i] ?? 0
      if (step < 2 * i || start === total) return []
      const count = Math.min(1 + ((step * 5 + i * 3) % 9), total - start)
      fed[i] = start + count
      const tokens = texts[i]?.subarray(start, start + count) ?? new Int32Array()
      return [{ i, segment: { sequence, tokens, logits: 'all' as const } }]
    })
    if (step % 2 === 1) members.reverse()
    const rows = [...model.forward(members.map(({ segment }) => segment))]
    for (const { i, segment } of members) found[i]?.push(...rows.splice(0, segment.tokens.length))
  }
  for (const sequence of sequences) model.release(sequence)
  return found
}

/** Steps and drafts of two sequences, each on a device of its own, the second behind a prefix. */
function drafted(model: Model): Float32Array[] {
  const at = (i: number) => ({ maxTokens: total + 300, on: i % model.deviceCount })
  const page = goldenTokens(0, 256)
  const first = model.createSequence(at(1))
  model.forward([{ sequence: first, tokens: page, logits: 'none' }])
  model.draft([{ sequence: first, tokens: goldenTokens(1, 257), after: 'forward', logits: 'none' }])
  const prefix = model.keepPrefix(first)
  if (prefix === null) throw new Error('there is a place for a prefix')
  const sequences = [
    model.createSequence(at(0)),
    model.createSequence({ maxTokens: total + 300, from: prefix }),
  ]
  const rows: Float32Array[] = []
  for (let start = 0; start < 12; start += 3) {
    const segments = sequences.map((sequence, i) => {
      const tokens = texts[i]?.subarray(start, start + 3) ?? new Int32Array()
      return { sequence, tokens, logits: 'last' as const }
    })
    rows.push(...model.forward(segments))
    const next = segments.map((segment, i) => {
      const tokens = texts[i]?.subarray(start + 1, start + 4) ?? new Int32Array()
      return { ...segment, tokens, after: 'forward' as const }
    })
    rows.push(...model.draft(next))
  }
  return rows
}

describe.each([referenceDevice, cpuDevice({ numerics: 'fast', threads: 2 })])(
  'on $label, experts',
  (on) => {
    describe.skipIf(on.missing)('of several devices', () => {
      let whole: Float32Array[][]
      beforeAll(async () => {
        whole = together((await loadToyModel({ quantisation: 'on' }, on.open())).model)
      })

      it.each([2, 3, 4, 8])(
        'shared by %i give the bits of one that has them all',
        async (places) => {
          const device = on.open()
          const model = await split(groupOfOne(device, places))
          expect(model.deviceCount).toBe(places)
          expect(together(model)).toEqual(whole)
          model.close()
          expect(device.memory()).toMatchObject({ allocatedBytes: 0, buffers: 0 })
        },
      )
    })
  },
)

describe('a model on two devices', () => {
  it('drafts, also behind a prefix, what one device drafts', async () => {
    const { model } = await loadToyModel({ quantisation: 'on', mtp: true })
    const shared = await split(groupOfOne(referenceDevice.open(), 2), { mtp: true })
    expect(drafted(shared)).toEqual(drafted(model))
  })

  it('puts a sequence where there is most room, or where its prefix is', async () => {
    const model = await split(groupOfOne(referenceDevice.open(), 2), {
      cache: { sequencesMax: 2, tokensMax: 1024 },
    })
    const text = goldenTokens(0, 256)
    const first = model.createSequence({ maxTokens: 300 })
    model.forward([{ sequence: first, tokens: text, logits: 'none' }])
    const prefix = model.keepPrefix(first)
    expect([model.capacity(0).pagesFree, model.capacity(1).pagesFree]).toEqual([3, 4])
    model.createSequence({ maxTokens: 300 })
    expect(model.capacity(1).sequencesUsed).toBe(1)
    if (prefix === null) throw new Error('there is a place for a prefix')
    model.createSequence({ maxTokens: 300, from: prefix })
    expect(model.capacity(0).sequencesUsed).toBe(2)
    expect(model.capacity()).toMatchObject({ sequencesUsed: 3, sequencesMax: 4, pagesFree: 7 })
    model.createSequence({ maxTokens: 300 })
    expect(() => model.createSequence({ maxTokens: 300 })).toThrow('all 2 sequences are in use')
    expect(() => model.createSequence({ maxTokens: 300, from: prefix, on: 1 })).toThrow(
      'a sequence is where the prefix is',
    )
  })

  it('runs all of a step or none of it', async () => {
    const model = await split(groupOfOne(referenceDevice.open(), 2), {
      cache: { sequencesMax: 2, tokensMax: 256 },
    })
    const [fits, tooLong] = [0, 1].map((on) => model.createSequence({ maxTokens: 600, on }))
    if (fits === undefined || tooLong === undefined) throw new Error('there are two')
    const step = [
      { sequence: fits, tokens: goldenTokens(0, 9), logits: 'last' as const },
      { sequence: tooLong, tokens: goldenTokens(0, 257), logits: 'last' as const },
    ]
    expect(() => model.forward(step)).toThrow('1 of 1 are left')
    expect(fits.length).toBe(0)
    expect(feed(model, fits, goldenTokens(0, 9))).toHaveLength(9)
  })

  it('reads each tensor once and gives each device its own experts', async () => {
    const written: number[] = []
    const device = referenceDevice.open()
    const model = await split(groupOfOne(new CountingWrites(device, written), 2))
    const alone: number[] = []
    await loadToyModel({ quantisation: 'on' }, new CountingWrites(referenceDevice.open(), alone))
    const sum = (bytes: readonly number[]): number => bytes.reduce((total, each) => total + each, 0)
    // Two copies of everything but the routed experts: 8 of 3 × 256 × 128 FP4 values in 5 layers.
    const routed = 5 * 8 * 3 * 256 * 128 * (1 / 2 + 1 / 32)
    expect(sum(written)).toBe(2 * sum(alone) - routed)
    model.close()
  })
})

/** Notes how many bytes are written. */
class CountingWrites extends PassingDevice {
  readonly #written: number[]

  constructor(inner: Device, written: number[]) {
    super(inner)
    this.#written = written
  }

  override write(...args: Parameters<Device['write']>): void {
    this.#written.push(args[2].length)
    super.write(...args)
  }

  override run<Op extends OpName>(op: Op, args: OpTable[Op]): void {
    this.inner.run(op, args)
  }
}

type Mistake = <Op extends OpName>(op: Op, args: OpTable[Op]) => OpTable[Op]

/** A device on which one op is told something wrong. */
class MistakenDevice extends PassingDevice {
  readonly #mistake: Mistake

  constructor(inner: Device, mistake: Mistake) {
    super(inner)
    this.#mistake = mistake
  }

  override run<Op extends OpName>(op: Op, args: OpTable[Op]): void {
    this.inner.run(op, this.#mistake(op, args))
  }
}

describe('mistakes between devices show', () => {
  const mistakes: readonly { readonly name: string; readonly mistake: Mistake }[] = [
    {
      name: 'an expert looked for at the wrong device',
      mistake: (op, args) =>
        op === 'expert-sum' && 'results' in args
          ? { ...args, results: args.results.toReversed() }
          : args,
    },
    {
      name: "a device's results left out",
      mistake: (op, args) =>
        op === 'expert-sum' && 'results' in args
          ? { ...args, results: args.results.map((each, i) => args.results[i - 1] ?? each) }
          : args,
    },
    {
      name: 'experts taken for those of the device before',
      mistake: (op, args) =>
        op === 'experts' && 'part' in args && args.part !== undefined
          ? { ...args, part: { ...args.part, firstExpert: 0 } }
          : args,
    },
    {
      name: 'rows that are not gathered',
      mistake: (op, args) =>
        op === 'gather' && 'parts' in args ? { ...args, parts: args.parts.slice(0, -3) } : args,
    },
  ]
  it.each(mistakes)('$name', async ({ mistake }) => {
    const { model: whole } = await loadToyModel({ quantisation: 'on' })
    const device = new MistakenDevice(referenceDevice.open(), mistake)
    const model = await split(groupOfOne(device, 2))
    const logits = (of: Model): Float32Array[] => {
      const sequences = [0, 1].map((i) =>
        of.createSequence({ maxTokens: 9, on: i % of.deviceCount }),
      )
      return sequences.flatMap((sequence) => feed(of, sequence, goldenTokens(0, 9)))
    }
    expect(logits(model)).not.toEqual(logits(whole))
  })
})
