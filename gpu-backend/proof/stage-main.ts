import { strict as assert } from 'node:assert'
import { parseArgs } from 'node:util'
import { Worker } from 'node:worker_threads'
import { compareWithTorch } from './against-torch.ts'
import { runChecker } from './checkers.ts'
import { timeKind } from './layer-times.ts'
import { proveModel } from './models.ts'
import { OpSuite } from './op-suite.ts'
import { deviceLostExitCode, resultLine } from './stage-process.ts'
import { isStageName, type ProofOptions, type StageName, type StageResults } from './stages.ts'
import { openSubject } from './subject.ts'

// One stage in a process of its own, so that a kernel that takes the GPU, the driver or the process
// with it takes nothing else. Each result is told as soon as it is there.

const { values } = parseArgs({
  options: {
    stage: { type: 'string', default: '' },
    items: { type: 'string', default: '' },
    fake: { type: 'boolean', default: false },
    toy: { type: 'boolean', default: false },
    seed: { type: 'string', default: '1' },
    /** No item is begun after this, in milliseconds of the epoch. */
    until: { type: 'string', default: '0' },
  },
})

/** Runs one of a stage's items, which may take until `until`. */
type RunItem<Stage extends StageName> = (
  item: string,
  until: number,
) => StageResults[Stage] | Promise<StageResults[Stage]>

type Opened<Stage extends StageName> = (options: ProofOptions) => Promise<RunItem<Stage>>

const stages: { readonly [Stage in StageName]: Opened<Stage> } = {
  ops: async (options) => {
    const suite = new OpSuite(await openSubject(options.fake), options)
    return (op, until) => suite.run(op, until)
  },
  models: async (options) => {
    const subject = await openSubject(options.fake)
    return (part) => proveModel(subject, part, options)
  },
  times: async (options) => {
    const subject = await openSubject(options.fake)
    return (kind) => timeKind(subject, kind, options)
  },
  checkers: (options) => Promise.resolve((tool, until) => runChecker(tool, { ...options, until })),
  torch: async (options) => {
    const subject = await openSubject(options.fake)
    return () => compareWithTorch(subject, options)
  },
}

/** Ends this process when the one that started it is gone, whatever this thread hangs in. */
function endWithParent(): void {
  const watch = `const parent = process.ppid
    setInterval(() => { if (process.ppid !== parent) process.kill(process.pid, 'SIGKILL') }, 500)`
  new Worker(watch, { eval: true }).unref()
}

async function runItems(stage: StageName, items: readonly string[], until: number): Promise<void> {
  const options = { ...values, seed: Number(values.seed) }
  const run = await orEnd<RunItem<StageName>>(stage, () => stages[stage](options))
  for (const [index, item] of items.entries()) {
    const left = until - Date.now()
    if (left <= 0) return
    const share = Math.floor(left / (items.length - index))
    const result = await orEnd(item, () => run(item, Date.now() + share))
    console.log(resultLine({ stage, item, result }))
    if ('lost' in result && result.lost) process.exit(deviceLostExitCode)
  }
}

/** What an item throws ends the process: a GPU that has failed once answers to no other. */
async function orEnd<T>(item: string, run: () => T | Promise<T>): Promise<T> {
  try {
    return await run()
  } catch (error) {
    console.error(error)
    // The last line is what becomes of it in the table.
    console.error(`${item}: ${error instanceof Error ? error.message : String(error)}`)
    process.exit(1)
  }
}

endWithParent()
const { stage } = values
assert(isStageName(stage), `there is no stage ${stage}`)
await runItems(stage, values.items.split(','), Number(values.until))
