import { strict as assert } from 'node:assert'
import { readFile } from 'node:fs/promises'
import { openToyCheckpoint } from '#weights/toy/open-toy.ts'
import type { CudaDevice } from '../src/device/cuda.ts'
import type { Device } from '../src/device/device.ts'
import { ReferenceDevice } from '../src/device/reference.ts'
import { loadModel, type Model, type Quantisation, type Segment } from '../src/model/model.ts'
import { type Claim, modelParts, type ProofOptions } from './stages.ts'
import type { Subject } from './subject.ts'

/** On a GPU all goldens; on the host a block of 16 ends, and the window turns over. */
const textLengths = { gpu: 140, host: 24 }
/**
 * Share of positions whose most likely token has to be the golden one. Inputs of products are
 * bfloat16; where a token's experts or entries lie close together another choice is as right.
 */
const agreementMin = 0.9

/** Kernels of one layer at decode, and of what stands before and behind the layers. */
const kernelsOfLayer = 14
const kernelsBeside = 4

interface GoldenRow {
  readonly position: number
  readonly top: readonly (readonly [id: number, logit: number])[]
}

/** Golden tokens of the toy's vectors. */
function goldenTokens(start: number, end: number): Int32Array {
  return Int32Array.from({ length: end - start }, (_, i) => {
    const position = start + i
    return (7 * position ** 2 + 3 * position + 5) % 512
  })
}

/** Goldens and agreement with the reference; or what may not change a bit of a model's logits. */
export function proveModel(
  subject: Subject,
  part: string,
  { fake, toy }: Pick<ProofOptions, 'fake' | 'toy'>,
): Promise<readonly Claim[]> {
  const known = modelParts.find((name) => name === part)
  assert(known !== undefined, `there is no part ${part} of models`)
  const tokens = fake || toy ? textLengths.host : textLengths.gpu
  switch (known) {
    case 'goldens':
      return goldenClaims(subject, tokens)
    case 'invariance off':
      return invarianceClaims(subject, 'off', tokens)
    case 'invariance on':
      return invarianceClaims(subject, 'on', tokens)
    default:
      return known satisfies never
  }
}

function load(device: Device, quantisation: Quantisation): Promise<Model> {
  return openToyCheckpoint().then((toy) => loadModel(toy, device, { quantisation }))
}

async function onGpu<T>(
  subject: Subject,
  quantisation: Quantisation,
  use: (model: Model, device: CudaDevice) => T,
): Promise<T> {
  const device = subject.open()
  try {
    return use(await load(device, quantisation), device)
  } finally {
    device.close()
  }
}

/** Logits behind every token, fed in steps that end at `cuts`. */
function feed(model: Model, text: Int32Array, cuts: readonly number[]): Float32Array[] {
  const sequence = model.createSequence({ maxTokens: text.length })
  let start = 0
  const rows = cuts.flatMap((end) => {
    const step = text.subarray(start, end)
    start = end
    return [...model.forward([{ sequence, tokens: step, logits: 'all' }])]
  })
  model.release(sequence)
  return rows
}

/** Cuts that make a step of `from` tokens, and then one step a token. */
function thenOnes(from: number, tokens: number): number[] {
  return Array.from({ length: tokens - from + 1 }, (_, i) => from + i)
}

async function goldenClaims(subject: Subject, tokens: number): Promise<readonly Claim[]> {
  const file = new URL('../../test/vectors/golden/toy.json', import.meta.url)
  const golden = JSON.parse(await readFile(file, 'utf8')) as { readonly off: readonly GoldenRow[] }
  const text = goldenTokens(0, tokens)
  const found = await onGpu(subject, 'off', (model) => feed(model, text, thenOnes(1, tokens)))
  const exact = feed(await load(new ReferenceDevice(), 'off'), text, [tokens])
  const firstError = relativeError(found[0], exact[0])
  const agreed = exact.filter((row, i) => best(row) === best(found[i])).length
  const inside = golden.off.filter(({ position }) => position < tokens)
  const hits = inside.filter(({ position, top }) => best(found[position]) === top[0]?.[0])
  return [
    {
      claim: 'the first logits are those of the reference, but for bfloat16 inputs',
      held: firstError <= 2e-2,
      seen: `relative error ${firstError.toExponential(1)}`,
    },
    {
      claim: `nine in ten first choices of ${tokens} tokens are the reference's`,
      held: agreed >= agreementMin * tokens,
      seen: `${agreed} of ${tokens}`,
    },
    {
      claim: 'nine in ten golden positions have the golden first choice',
      held: hits.length >= agreementMin * inside.length,
      seen: `${hits.length} of ${inside.length}`,
    },
  ]
}

async function invarianceClaims(
  subject: Subject,
  quantisation: Quantisation,
  tokens: number,
): Promise<readonly Claim[]> {
  const [one, two] = [goldenTokens(0, tokens), goldenTokens(40, 40 + tokens)]
  return onGpu(subject, quantisation, (model, device) => {
    const whole = feed(model, one, [tokens])
    const claim = (name: string, found: readonly Float32Array[]): Claim => {
      const changed = found.filter((row, i) => !sameBits(row, whole[i])).length
      return {
        claim: `${name}, quantisation ${quantisation}`,
        held: changed === 0 && found.length === whole.length,
        seen: `${changed} of ${found.length} rows differ`,
      }
    }
    const claims = [
      claim(
        'a prefill and single tokens give the bits of one step',
        feed(model, one, thenOnes(17, tokens)),
      ),
      claim('chunks give the bits of one step', feed(model, one, [3, 20, 21, tokens])),
      claim("a sequence's bits do not depend on its neighbour", beside(model, one, two)),
      claim('tokens taken back leave no trace', takingBack(model, one, two)),
    ]
    const { replays, recordedLaunchesMax: launches } = device
    const layers = model.shape.layers.length
    const recorded = `decode steps are run as recorded graphs, quantisation ${quantisation}`
    return [
      ...claims,
      { claim: recorded, held: replays > tokens / 2, seen: `${replays} replays` },
      {
        claim: `a decode step has at most ${kernelsOfLayer} kernels a layer, quantisation ${quantisation}`,
        held: launches > 0 && launches <= kernelsOfLayer * layers + kernelsBeside,
        seen: `${launches} kernels, ${layers} layers`,
      },
    ]
  })
}

/** Two texts in one step after the other, in lengths of their own. */
function beside(model: Model, one: Int32Array, two: Int32Array): Float32Array[] {
  const texts = [one, two]
  const tokens = one.length
  const sequences = texts.map(() => model.createSequence({ maxTokens: tokens }))
  const rows: Float32Array[] = []
  for (let at = 0, step = 0; at < tokens; step++) {
    const length = Math.min(1 + ((5 * step) % 9), tokens - at)
    const segments = sequences.flatMap((sequence, i): Segment[] => {
      const part = texts[i]?.subarray(at, at + length)
      return part === undefined ? [] : [{ sequence, tokens: part, logits: 'all' }]
    })
    rows.push(...model.forward(segments).slice(0, length))
    at += length
  }
  for (const sequence of sequences) model.release(sequence)
  return rows
}

/** Guesses that are wrong after some tokens, and taken back. */
function takingBack(model: Model, right: Int32Array, wrong: Int32Array): Float32Array[] {
  const tokens = right.length
  const sequence = model.createSequence({ maxTokens: tokens })
  const rows: Float32Array[] = []
  for (let at = 0; at < tokens;) {
    const accepted = Math.min(1 + (at % 5), tokens - at)
    const rejected = Math.min(4, tokens - at - accepted)
    const guess = Int32Array.of(
      ...right.subarray(at, at + accepted),
      ...wrong.subarray(0, rejected),
    )
    rows.push(...model.forward([{ sequence, tokens: guess, logits: 'all' }]).slice(0, accepted))
    at += accepted
    model.rollback(sequence, at)
  }
  model.release(sequence)
  return rows
}

function best(row: Float32Array | undefined): number {
  if (row === undefined) return -1
  return row.reduce((at, value, i) => (value > (row[at] ?? -Infinity) ? i : at), 0)
}

function sameBits(a: Float32Array, b: Float32Array | undefined): boolean {
  return b !== undefined && Buffer.compare(new Uint8Array(a.buffer), new Uint8Array(b.buffer)) === 0
}

function relativeError(
  found: Float32Array | undefined,
  expected: Float32Array | undefined,
): number {
  if (found === undefined || expected === undefined) return Infinity
  const sum = (values: Float32Array): number => values.reduce((total, v) => total + v * v, 0)
  return Math.sqrt(sum(found.map((v, i) => v - (expected[i] ?? 0))) / sum(expected))
}
