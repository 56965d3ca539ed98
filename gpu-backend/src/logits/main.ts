import { openCheckpoint } from '#weights/checkpoint.ts'
import { manifestFileName } from '#weights/manifest.ts'
import { openReleased } from '#weights/released.ts'
import { openStore } from '#weights/store/open.ts'
import { findObject } from '#weights/store/whole.ts'
import { DeviceError } from '../device/device.ts'
import { openDevice } from '../device/open.ts'
import { loadModel } from '../model/model.ts'
import type { WeightSource } from '../model/weight-placer.ts'
import { type LogitsArguments, parseArguments, UsageError } from './arguments.ts'
import { computeLogits } from './compute.ts'

interface NamedSource {
  /** The name it was published under; null for a checkpoint as released. */
  readonly modelId: string | null
  readonly source: WeightSource
}

async function openSource(place: string): Promise<NamedSource> {
  const store = openStore(place, process.env)
  if ((await findObject(store, manifestFileName)) === null) {
    return { modelId: null, source: await openReleased(store) }
  }
  const source = await openCheckpoint(store)
  return { modelId: source.manifest.modelId, source }
}

async function run(args: LogitsArguments): Promise<void> {
  const { modelId, source } = await openSource(args.checkpoint)
  const { vocabSize, maxPositionEmbeddings } = source.config
  for (const token of args.tokens) {
    if (token < vocabSize) continue
    throw new UsageError(`--tokens has ${token}, outside the vocabulary of ${vocabSize}`)
  }
  if (args.tokens.length > maxPositionEmbeddings) {
    throw new UsageError(
      `--tokens has ${args.tokens.length} ids; the model's context is ${maxPositionEmbeddings}`,
    )
  }
  const device = await openDevice(args.device)
  const model = await loadModel(source, device, {
    quantisation: args.quantisation,
    cache: { sequencesMax: 1, tokensMax: maxPositionEmbeddings },
    onProgress: progressLine(),
  })
  const { logits, norms } = computeLogits(model, device, args)
  const report = {
    checkpoint: source.location,
    model: modelId,
    device: device.name,
    quantisation: args.quantisation,
    tokens: [...args.tokens],
    prefill: args.prefill,
    logits: logits.map((row) => [...row]),
    ...(args.norms ? { norms } : {}),
  }
  process.stdout.write(`${JSON.stringify(report)}\n`)
  model.close()
  device.close()
}

/** Rewrites one line of a terminal; a log gets nothing until loading fails or ends. */
function progressLine(): (doneBytes: number, totalBytes: number) => void {
  return (doneBytes, totalBytes) => {
    if (!process.stderr.isTTY) return
    const percent = Math.floor((100 * doneBytes) / totalBytes)
    process.stderr.write(`\rloading weights ${percent} %${doneBytes === totalBytes ? '\n' : ''}`)
  }
}

/** 2: the command line is at fault; 1: anything else. */
async function main(argv: readonly string[]): Promise<number> {
  try {
    const parsed = parseArguments(argv)
    if (parsed.kind === 'help') process.stdout.write(parsed.text)
    else await run(parsed.arguments)
    return 0
  } catch (error) {
    const missing = error instanceof DeviceError && error.code === 'device_unavailable'
    const message = error instanceof Error ? error.message : String(error)
    process.stderr.write(`logits: ${missing ? '--device ' : ''}${message}\n`)
    return error instanceof UsageError || missing ? 2 : 1
  }
}

process.exitCode = await main(process.argv.slice(2))
