import { strict as assert } from 'node:assert'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { parentPort, workerData } from 'node:worker_threads'
import { openCheckpoint, type Checkpoint } from '#weights/checkpoint.ts'
import { openStore } from '#weights/store/open.ts'
import { openDevice, openGpus } from '../device/open.ts'
import { formControls } from '../grammar/answer-grammar.ts'
import { Constraints } from '../grammar/constraint.ts'
import { loadModel, type Model } from '../model/model.ts'
import { readTokenBytes } from '../text/tokenizer.ts'
import { Engine } from './engine.ts'
import type { EngineCommand, EngineReport, EngineSettings } from './protocol.ts'
import { PrefixSpill, SpillFolder } from './prefix-spill.ts'
import { Speculation } from './speculation.ts'

/**
 * The engine's thread: loads the model and steps while there is something to do. Whatever is thrown
 * here ends the thread, and with it every request; the server's side says so.
 */
const port = parentPort
assert(port !== null, 'this module runs as a worker thread')
const settings = workerData as EngineSettings

function report(message: EngineReport): void {
  port?.postMessage(message)
}

/** What the tokens spell, for answers that are held to a form. */
async function loadConstraints(checkpoint: Checkpoint): Promise<Constraints> {
  const { config, manifest } = checkpoint
  const tokens = readTokenBytes(await checkpoint.readFile(manifest.tokenizerFile), formControls)
  return new Constraints(tokens, { size: config.vocabSize, endToken: config.eosTokenId })
}

async function load(checkpoint: Checkpoint): Promise<Model> {
  const { gpus, numerics, limits } = settings
  const onNote = (note: string): void => report({ kind: 'note', note })
  const devices =
    gpus === null
      ? await openDevice(settings.device, { numerics, onNote })
      : await openGpus(gpus, onNote)
  // What the settings allow is of all devices together, and each has a cache of its own.
  const count = gpus?.length ?? 1
  return loadModel(checkpoint, devices, {
    quantisation: settings.quantisation,
    mtp: settings.draftsMax > 0,
    ...(settings.expertSlots === null ? {} : { expertSlots: settings.expertSlots }),
    cache: {
      sequencesMax: Math.ceil(limits.runningMax / count),
      tokensMax: Math.floor(settings.cacheTokens / count),
      prefixesMax: Math.ceil(settings.prefixesMax / count),
    },
    onProgress: (done, total) => {
      report({ kind: 'progress', progress: { phase: 'weights', done, total } })
    },
  })
}

report({ kind: 'progress', progress: { phase: 'checkpoint', done: 0, total: 0 } })
const checkpoint = await openCheckpoint(openStore(settings.checkpoint, process.env))
const constraints = await loadConstraints(checkpoint)
const model = await load(checkpoint)
const { spill } = settings
const engine = new Engine({
  model,
  spill:
    spill === null ? null : new PrefixSpill(model, new SpillFolder(spill.folder, spill.bytesMax)),
  limits: settings.limits,
  speculation: model.drafts ? new Speculation(model, settings.draftsMax) : null,
  constraints,
  random: Math.random,
  now: Date.now,
  emit: (events) => report({ kind: 'events', events }),
  emitStats: (stats) => report({ kind: 'stats', stats }),
})

function obey(command: EngineCommand): void {
  switch (command.kind) {
    case 'generate':
      engine.submit(command.request)
      return
    case 'cancel':
      engine.cancel(command.id)
      return
    default:
      command satisfies never
  }
}

let wake: (() => void) | null = null
port.on('message', (command: EngineCommand) => {
  obey(command)
  wake?.()
})
report({ kind: 'stats', stats: engine.stats })
report({ kind: 'ready', device: model.device })

for (;;) {
  if (engine.idle) {
    await new Promise<void>((resolve) => {
      wake = resolve
    })
    wake = null
  }
  engine.step()
  // Messages are read here: a cancellation that has come takes part in the next step already.
  await nextTurn()
}
