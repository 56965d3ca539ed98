import { createHash } from 'node:crypto'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { CudaError } from '../src/device/cuda/errors.ts'
import { readClocks } from './machine.ts'
import { kitDir, packKit } from './pack.ts'
import { describeProof, isSound, type Proof } from './report.ts'
import { runStage } from './stage-process.ts'
import {
  type Found,
  isStageName,
  itemsOf,
  type Missing,
  type StageName,
  stageNames,
  stageSecondsMax,
} from './stages.ts'
import { openSubject, type Subject } from './subject.ts'

const { values } = parseArgs({
  options: {
    /** The fake driver: kernels on the host, no times. */
    fake: { type: 'boolean', default: false },
    /** Leave out what has a released model's dimensions; always so with the fake. */
    toy: { type: 'boolean', default: false },
    /** These stages alone, separated by commas. */
    only: { type: 'string' },
    /** An earlier run's JSON file, of the same card and kernels, that this one goes on from. */
    onto: { type: 'string' },
    /** Nothing is begun after this. */
    minutes: { type: 'string', default: '9' },
    seed: { type: 'string', default: '1' },
    /** Folder for the table and the JSON file. */
    out: { type: 'string', default: fileURLToPath(new URL('results', import.meta.url)) },
    /** Only put Node and packages where `run.sh` finds them on a bare machine. */
    pack: { type: 'boolean', default: false },
    /** Write no files. */
    dry: { type: 'boolean', default: false },
  },
})

/** What of a proof stays the same while it is run. */
type Head = Omit<Proof, 'found' | 'missing' | 'seconds'>

function chosenStages(): readonly StageName[] {
  const names = values.only?.split(',') ?? [...stageNames]
  const unknown = names.find((name) => !isStageName(name))
  if (unknown !== undefined) refuse(`--only is of ${stageNames.join(', ')}, not ${unknown}`)
  const timed = new Set<StageName>(['times', 'checkers', 'torch'])
  return stageNames.filter((stage) => names.includes(stage) && !(values.fake && timed.has(stage)))
}

function refuse(why: string): never {
  console.error(why)
  process.exit(2)
}

function headOf({ gpu, driver, fake, images }: Subject, stages: readonly StageName[]): Head {
  const hash = createHash('sha256')
  for (const { bytes } of images.modules) hash.update(bytes)
  return {
    date: new Date().toISOString().slice(0, 10),
    card: gpu.name,
    architecture: gpu.architecture,
    driver: driver.version,
    clocks: fake ? null : readClocks(gpu.ordinal),
    fake,
    toy: values.toy || fake,
    kernels: hash.digest('hex').slice(0, 12),
    seed: Number(values.seed),
    stages,
  }
}

/** Results of an earlier run that hold for this one. */
async function earlierResults(head: Head): Promise<readonly Found[]> {
  if (values.onto === undefined) return []
  const earlier = JSON.parse(await readFile(values.onto, 'utf8')) as Proof
  const same = (['card', 'driver', 'kernels', 'seed', 'toy'] as const).find(
    (name) => earlier[name] !== head[name],
  )
  if (same !== undefined) {
    refuse(`${values.onto} is of ${same} ${earlier[same]}, and this is ${head[same]}`)
  }
  return earlier.found
}

/** Runs every stage, and writes down what is known after each result. */
async function prove(head: Head, earlier: readonly Found[]): Promise<Proof> {
  const started = performance.now()
  const end = Date.now() + 60_000 * Number(values.minutes)
  const found = [...earlier]
  const isFound = (stage: StageName, item: string): boolean =>
    found.some((one) => one.stage === stage && one.item === item)
  const explained: Missing[] = []
  const proofSoFar = (): Proof => {
    const missing = head.stages.flatMap((stage) =>
      itemsOf[stage]
        .filter((item) => !isFound(stage, item))
        .map((item): Missing => {
          const known = explained.find((one) => one.stage === stage && one.item === item)
          return known ?? { stage, item, lost: false, why: 'the run was cut off before it' }
        }),
    )
    return { ...head, found, missing, seconds: (performance.now() - started) / 1000 }
  }
  let written = Promise.resolve()
  for (const stage of head.stages) {
    const items = itemsOf[stage].filter((item) => !isFound(stage, item))
    console.log(`${((performance.now() - started) / 1000).toFixed(0)} s: ${stage}`)
    const missing = await runStage(stage, {
      fake: values.fake,
      toy: values.toy,
      seed: head.seed,
      items,
      until: Math.min(end, Date.now() + 1000 * stageSecondsMax[stage]),
      onFound: (result) => {
        found.push(result)
        written = written.then(() => write(proofSoFar()))
      },
    })
    explained.push(...missing)
  }
  await written
  return proofSoFar()
}

async function write(proof: Proof): Promise<void> {
  if (values.dry) return
  const name = proof.fake ? 'fake' : `${proof.date}-${proof.card.replaceAll(/\W+/g, '-')}`
  try {
    await mkdir(values.out, { recursive: true })
    await writeFile(`${values.out}/${name}.md`, describeProof(proof))
    await writeFile(`${values.out}/${name}.json`, `${JSON.stringify(proof, null, 1)}\n`)
  } catch (error) {
    // The table is printed in any case; what was proved is not lost for want of a folder.
    console.error(`not written: ${error instanceof Error ? error.message : String(error)}`)
  }
}

if (values.pack) {
  const { bytes } = await packKit()
  console.log(`packed: ${kitDir}, ${(bytes / 2 ** 20).toFixed(1)} MiB`)
  console.log('there: sh gpu-backend/proof/run.sh')
  process.exit(0)
}
const stages = chosenStages()
const subject = await openSubject(values.fake).catch((error: unknown) => {
  if (!(error instanceof CudaError)) throw error
  console.error(`nothing to prove here: ${error.message} (--fake runs the kernels on the host)`)
  process.exit(1)
})
const head = headOf(subject, stages)
const proof = await prove(head, await earlierResults(head))
await write(proof)
console.log(`\n${describeProof(proof)}`)
if (!values.dry) console.log(`written: ${values.out}`)
process.exitCode = isSound(proof) ? 0 : 1
