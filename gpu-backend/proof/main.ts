import { createHash } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { CudaError } from '../src/device/cuda/errors.ts'
import { compareWithTorch } from './against-torch.ts'
import { runCheckers } from './checkers.ts'
import { timeLayers } from './layer-times.ts'
import { proveModels } from './models.ts'
import { runOpSuite } from './op-suite.ts'
import { kitDir, packKit } from './pack.ts'
import { describeProof, isSound, type Proof } from './report.ts'
import { openSubject, type Subject } from './subject.ts'

const parts = ['ops', 'models', 'checkers', 'times'] as const
type Part = (typeof parts)[number]

const { values } = parseArgs({
  options: {
    /** The fake driver: kernels on the host, no times. */
    fake: { type: 'boolean', default: false },
    /** Leave out cases of a released model's dimensions; always so with the fake. */
    toy: { type: 'boolean', default: false },
    /** One part alone. */
    only: { type: 'string' },
    seed: { type: 'string', default: '1' },
    /** Folder for the table and the JSON file. */
    out: { type: 'string', default: fileURLToPath(new URL('results', import.meta.url)) },
    /** Only put Node and packages where `run.sh` finds them on a bare machine. */
    pack: { type: 'boolean', default: false },
    /** Write no files. */
    dry: { type: 'boolean', default: false },
  },
})

function wants(part: Part): boolean {
  return values.only === undefined || values.only === part
}

async function prove(subject: Subject): Promise<Proof> {
  const started = performance.now()
  const { gpu, driver, fake, images } = subject
  const seed = Number(values.seed)
  const stage = <T>(name: string, run: () => T): T => {
    console.log(`${((performance.now() - started) / 1000).toFixed(0)} s: ${name}`)
    return run()
  }
  const toyOnly = values.toy || fake
  const timed = wants('times') && !fake
  const ops = wants('ops') ? stage('op suite', () => runOpSuite(subject, { toyOnly, seed })) : null
  const models = wants('models') ? await stage('models', () => proveModels(subject)) : null
  const layers = timed ? await stage('layer times', () => timeLayers(subject)) : null
  const torch = timed ? stage('torch', () => compareWithTorch(subject)) : null
  const main = fileURLToPath(import.meta.url)
  const checked = wants('checkers') && !fake
  const checkers = checked ? stage('checkers', () => runCheckers(main)) : null
  const hash = createHash('sha256')
  for (const { bytes } of images.modules) hash.update(bytes)
  return {
    date: new Date().toISOString().slice(0, 10),
    card: gpu.name,
    architecture: gpu.architecture,
    driver: driver.version,
    fake,
    kernels: hash.digest('hex').slice(0, 12),
    seed,
    ops,
    models,
    checkers,
    layers,
    torch,
    seconds: (performance.now() - started) / 1000,
  }
}

if (values.only !== undefined && !parts.some((part) => part === values.only)) {
  console.error(`--only is ${parts.join(', ')}, not ${values.only}`)
  process.exit(2)
}
if (values.pack) {
  await packKit()
  console.log(`packed: ${kitDir}; there, sh gpu-backend/proof/run.sh`)
  process.exit(0)
}
const subject = await openSubject(values.fake).catch((error: unknown) => {
  if (!(error instanceof CudaError)) throw error
  console.error(`nothing to prove here: ${error.message} (--fake runs the kernels on the host)`)
  process.exit(1)
})
const proof = await prove(subject)
const page = describeProof(proof)
console.log(`\n${page}`)
if (!values.dry) {
  await mkdir(values.out, { recursive: true })
  const name = proof.fake ? 'fake' : `${proof.date}-${proof.card.replaceAll(/\W+/g, '-')}`
  await writeFile(`${values.out}/${name}.md`, page)
  await writeFile(`${values.out}/${name}.json`, `${JSON.stringify(proof, null, 1)}\n`)
  console.log(`written: ${values.out}/${name}.md and .json`)
}
process.exitCode = isSound(proof) ? 0 : 1
