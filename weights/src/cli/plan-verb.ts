import { readFile } from 'node:fs/promises'
import { parseModelConfig, type ModelConfig } from '../layout/config.ts'
import { gpuKinds, type GpuSet, parseGpuSet } from '../plan/gpu-kinds.ts'
import { type Capacity, type MemoryPlan, planMemory } from '../plan/memory-plan.ts'
import { formatBytes, formatCount } from './output.ts'
import { type Run, UsageError } from './verbs.ts'

export interface PlanArguments {
  readonly gpus: string
  readonly model: string
  readonly context: string
  readonly stepRows: string
}

/** Models whose configuration lies in the tree, as released. */
const models = ['v4-flash', 'v4-pro'] as const

/** Says what of a model fits where. True where all of it has a place. */
export async function runPlan({ output }: Run, args: PlanArguments): Promise<boolean> {
  const gpus = gpuSet(args.gpus)
  const config = await knownConfig(args.model)
  const context = countOf('--context', args.context, config.maxPositionEmbeddings)
  const stepRows = countOf('--step-rows', args.stepRows, config.maxPositionEmbeddings)
  const plan = planMemory(config, { gpus, context, stepRows })
  const machine = `${gpus.count}x${gpus.kind.name}`
  output.result({ gpus: machine, model: args.model, context, stepRows, ...plan }, [
    `${args.model} on ${machine}, steps of up to ${formatCount(stepRows)} rows`,
    ...weightLines(plan),
    ...gpuLines(plan, gpus),
    ...expertLines(plan, gpus),
    ...plan.capacities.map(capacityLine),
  ])
  return plan.fits
}

function gpuSet(text: string): GpuSet {
  const gpus = parseGpuSet(text)
  if (gpus !== null) return gpus
  const kinds = gpuKinds.map(({ name }) => name).join(', ')
  throw new UsageError(`--gpus is a count and a kind like 4xH200, not ${text}; kinds: ${kinds}`)
}

async function knownConfig(model: string): Promise<ModelConfig> {
  if (!models.some((known) => known === model)) {
    throw new UsageError(`--model is ${models.join(' or ')}, not ${model}`)
  }
  const file = new URL(`../../../test/vectors/config/${model}.json`, import.meta.url)
  return parseModelConfig(JSON.parse(await readFile(file, 'utf8')))
}

function countOf(option: string, text: string, max: number): number {
  const count = Number(text)
  if (Number.isInteger(count) && count >= 1 && count <= max) return count
  throw new UsageError(`${option} is a whole number from 1 to ${max}, not ${text}`)
}

function line(name: string, value: string): string {
  return `  ${name.padEnd(26)}${value.padStart(10)}`
}

function weightLines({ weights, draft }: MemoryPlan): string[] {
  const kinds = Object.entries(weights).filter(([, bytes]) => bytes > 0)
  const dropped = draft === 'dropped' ? ' (dropped)' : ''
  return [
    'Weights',
    ...kinds.map(
      ([kind, bytes]) => line(kind, formatBytes(bytes)) + (kind === 'draft block' ? dropped : ''),
    ),
  ]
}

function gpuLines({ gpu }: MemoryPlan, { count, kind }: GpuSet): string[] {
  return [
    count === 1 ? `The ${kind.name}` : `Each ${kind.name}`,
    line('memory', formatBytes(gpu.memory)),
    line('weights on every card', formatBytes(gpu.replicatedWeights)),
    line('its share of experts', formatBytes(gpu.experts)),
    line('a step, assumed', formatBytes(gpu.activations)),
    line('driver, assumed', formatBytes(gpu.driver)),
    line('left for sequences', formatBytes(gpu.cache)),
  ]
}

function expertLines({ hostExperts, fits }: MemoryPlan, { count: cards }: GpuSet): string[] {
  if (!fits && cards > 1) return ['It does not fit: the cards have no room for all experts.']
  if (!fits) return ['It does not fit: the card has no room for the experts of one token.']
  if (hostExperts === null) return ['All of it is on the cards.']
  const { count, ofAll, bytes, bytesPerTokenEvenUse } = hostExperts
  const share = ((100 * count) / ofAll).toFixed(1)
  return [
    `In pinned host memory: ${formatCount(count)} of ${formatCount(ofAll)} experts (${share} %), ` +
      `${formatBytes(bytes)}; were all used equally, ` +
      `${formatBytes(bytesPerTokenEvenUse)} over the bus a token.`,
  ]
}

function capacityLine({ context, bytesPerSequence, sequences }: Capacity): string {
  const count = formatCount(sequences).padStart(7)
  return `${count} sequences of ${formatCount(context)} tokens, ${formatBytes(bytesPerSequence)} each`
}
