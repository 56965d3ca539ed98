import { parseModelConfig } from '#weights/layout/config.ts'
import { toyConfig } from '#weights/toy/config.ts'
import { toyTensor } from '#weights/toy/tensors.ts'
import { type Bench, median, round3, timed } from '../../gpu-backend/bench/bench.ts'
import { machineConditions, openAddon } from '../../gpu-backend/bench/machine.ts'
import { weightSource } from '../../gpu-backend/bench/narrow-model.ts'
import { toyTokens } from '../../gpu-backend/bench/toy.ts'
import { CpuDevice } from '../../gpu-backend/src/device/cpu.ts'
import type { Device } from '../../gpu-backend/src/device/device.ts'
import { Engine, type EngineModel } from '../../gpu-backend/src/engine/engine.ts'
import type { EngineStats, GenerationRequest } from '../../gpu-backend/src/engine/protocol.ts'
import { seededRandom } from '../../gpu-backend/src/engine/random.ts'
import { type GuessingModel, Speculation } from '../../gpu-backend/src/engine/speculation.ts'
import { Cache } from '../../gpu-backend/src/model/cache.ts'
import { DeepSeekModel } from '../../gpu-backend/src/model/deepseek.ts'
import { ModelPart } from '../../gpu-backend/src/model/part.ts'
import type { Model } from '../../gpu-backend/src/model/model.ts'
import { Scratch } from '../../gpu-backend/src/model/scratch.ts'
import { modelShape } from '../../gpu-backend/src/model/shape.ts'
import { WeightPlacer } from '../../gpu-backend/src/model/weight-placer.ts'
import { describeModel } from '../../gpu-backend/src/model/weights.ts'
import { GuidedModel } from '../support/guided-model.ts'

const layerCount = 20
const promptTokens = 32
const outputTokensMax = 96
const sequenceCounts = [1, 8] as const
const rounds = 9

/** A head, and how many tokens it guesses; none: every token takes a step. */
interface Way {
  readonly name: string
  readonly draftsMax: number
  /** How often a head that knows the text says so, of ten positions; null: the toy's own head. */
  readonly rightOfTen: number | null
}

const ways: readonly Way[] = [
  { name: 'off', draftsMax: 0, rightOfTen: null },
  { name: "1 of the toy's own", draftsMax: 1, rightOfTen: null },
  { name: '1, 7 of 10 right', draftsMax: 1, rightOfTen: 7 },
  { name: '1, all right', draftsMax: 1, rightOfTen: 10 },
  { name: '3, all right', draftsMax: 3, rightOfTen: 10 },
]

/**
 * `npm run bench -- speculation`: the engine over a deep toy on the CPU device, its answers sampled.
 * Its weights are random, so its own head is as good as always wrong: what giving up costs. Heads
 * that know the text run its own beside, for what a trained head would win.
 */
export const speculationBench: Bench = async (print) => {
  const addon = await openAddon(print)
  const machine = await machineConditions(addon)
  const conditions = { ...machine, model: 'toy', layerCount, promptTokens, outputTokensMax, rounds }
  for (const [key, value] of Object.entries(conditions)) print(`${key}: ${value}`)
  const device = new CpuDevice(addon, { numerics: 'fast' })
  const model = deepToy(device)
  const ratios: Record<string, number> = {}
  for (const count of sequenceCounts) Object.assign(ratios, compare(model, count, print))
  model.close()
  device.close()
  return { conditions, ratios }
}

/** The toy's layers over and over: as in the models it stands for, a draft block is little beside them. */
function deepToy(device: Device): Model {
  const ratios = Array.from({ length: layerCount }, (_, i) => toyConfig.compress_ratios[i % 5] ?? 0)
  const config = parseModelConfig({
    ...toyConfig,
    num_hidden_layers: layerCount,
    compress_ratios: [...ratios, 0],
  })
  const shape = modelShape(config)
  const source = weightSource(config)
  const placer = new WeightPlacer(source, device)
  const weights = describeModel(placer, source, shape, true)
  for (const name of placer.names) {
    const spec = source.tensors.get(name)
    if (spec !== undefined) placer.place(name, toyTensor(spec))
  }
  placer.prepare()
  const limits = { sequencesMax: 8, tokensMax: 4096, rollbackMax: 8, prefixesMax: 0 }
  const cache = new Cache(device, shape, { limits, draft: true, rows: 'compact' })
  const scratch = new Scratch(device)
  const machine = { device, shape, weights, cache, scratch, quantise: true }
  return new DeepSeekModel([new ModelPart(machine, placer.buffers)])
}

function compare(
  model: Model,
  count: number,
  print: (line: string) => void,
): Record<string, number> {
  const requests = Array.from({ length: count }, (_, id) => requestOf(id, model.shape.vocabSize))
  const known = run(model, requests, 0).texts
  const rates = new Map<Way, number[]>(ways.map((way) => [way, []]))
  const stats = new Map<Way, EngineStats>()
  for (let round = 0; round < rounds; round++) {
    for (const [way, found] of rates) {
      const { draftsMax, rightOfTen } = way
      const isWrong = (position: number): boolean => (position * 7) % 10 >= (rightOfTen ?? 0)
      const over = rightOfTen === null ? model : new GuidedModel(model, known, isWrong)
      const result = run(over, requests, draftsMax)
      found.push((count * outputTokensMax) / result.seconds)
      stats.set(way, result.stats)
    }
  }
  const what = count === 1 ? '1 sequence' : `${count} sequences`
  const off = [...rates.values()][0] ?? []
  return Object.fromEntries(
    [...rates].map(([way, found]): [string, number] => {
      const { draftedTokensTotal, acceptedTokensTotal, stepsTotal } = stats.get(way) ?? {}
      // Each round's own comparison: whatever else runs meanwhile slows all ways of a round.
      const ratio = round3(median(found.map((rate, round) => rate / (off[round] ?? Number.NaN))))
      print(
        `${what}, ${way.name.padEnd(20)}${median(found).toFixed(0).padStart(6)} tokens/s, ` +
          `${ratio.toFixed(3)} of off; ${acceptedTokensTotal} of ${draftedTokensTotal} guesses ` +
          `right, ${stepsTotal} steps`,
      )
      return [`${what}, ${way.name}, of off`, ratio]
    }),
  )
}

function requestOf(id: number, vocabSize: number): GenerationRequest {
  return {
    id,
    prompt: toyTokens(promptTokens + id, vocabSize).subarray(id),
    outputTokensMax,
    sampling: { temperature: 1, topP: 0.95, seed: id },
    topLogprobs: null,
    priority: 0,
    deadlineMs: null,
    cacheSalt: null,
  }
}

interface Result {
  readonly seconds: number
  readonly stats: EngineStats
  /** Prompts and answers. */
  readonly texts: readonly (readonly number[])[]
}

function run(
  model: EngineModel & GuessingModel,
  requests: readonly GenerationRequest[],
  draftsMax: number,
): Result {
  const texts = requests.map(({ prompt }) => [...prompt])
  const engine = new Engine({
    model,
    limits: { runningMax: 8, waitingMax: 0, waitingTokensMax: 1e6, stepTokensMax: 512 },
    speculation: draftsMax === 0 ? null : new Speculation(model, draftsMax),
    random: seededRandom(1),
    now: () => performance.now(),
    emit: (events) => {
      for (const event of events) if (event.kind === 'token') texts[event.id]?.push(event.token)
    },
  })
  for (const request of requests) engine.submit(request)
  const seconds = timed(() => {
    while (!engine.idle) engine.step()
  })
  return { seconds, stats: engine.stats, texts }
}
