import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import {
  type Found,
  itemSecondsMax,
  type Missing,
  type ProofOptions,
  type StageName,
} from './stages.ts'

const stageMain = fileURLToPath(new URL('stage-main.ts', import.meta.url))
const mark = 'proof result: '
/** A stage's process says with this: all that was found was told, and the rest needs a new one. */
export const deviceLostExitCode = 75
/** Beyond its end, for the item a process is at. */
const graceMs = 25_000
/** Lines of a process's complaints that are kept. */
const complaintLines = 1

export function resultLine(found: Found): string {
  return `${mark}${JSON.stringify(found)}`
}

export function parseResultLine(line: string): Found | null {
  const at = line.indexOf(mark)
  return at < 0 ? null : (JSON.parse(line.slice(at + mark.length)) as Found)
}

/** The command line that runs items of a stage until `until`, in milliseconds of the epoch. */
export function stageCommand(
  stage: StageName,
  items: readonly string[],
  { fake, toy, seed, until }: ProofOptions & { readonly until: number },
): readonly [string, ...string[]] {
  const what = ['--stage', stage, '--items', items.join()]
  const how = ['--seed', String(seed), '--until', String(until)]
  const flags = [...(fake ? ['--fake'] : []), ...(toy ? ['--toy'] : [])]
  return [process.execPath, stageMain, ...what, ...how, ...flags]
}

export interface StageRun extends ProofOptions {
  readonly items: readonly string[]
  /** Milliseconds of the epoch. */
  readonly until: number
  readonly onFound: (found: Found) => void
}

/**
 * Runs a stage's items, in new processes as often as one is lost with an item. Gives the items
 * without a result: those that were lost, and those that time did not last for.
 */
export async function runStage(stage: StageName, run: StageRun): Promise<readonly Missing[]> {
  const lost: Missing[] = []
  let left = run.items
  while (left.length > 0 && Date.now() < run.until) {
    const { found, failure } = await runProcess(stage, { ...run, items: left })
    left = left.filter((item) => !found.has(item))
    const [blamed, ...others] = left
    if (blamed === undefined || failure === null) break
    if (failure === 'device lost') continue
    lost.push({ stage, item: blamed, lost: true, why: failure })
    left = others
  }
  return [...lost, ...left.map((item) => ({ stage, item, lost: false, why: 'no time was left' }))]
}

interface ProcessEnd {
  readonly found: ReadonlySet<string>
  /** null: it ended as it should. */
  readonly failure: string | null
}

async function runProcess(stage: StageName, run: StageRun): Promise<ProcessEnd> {
  const [program, ...args] = stageCommand(stage, run.items, run)
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  const found = new Set<string>()
  // The last item may have begun at the last moment; what hangs may not outlast the run for long.
  const limitMs = (): number =>
    Math.min(1000 * itemSecondsMax[stage], Math.max(0, run.until - Date.now()) + graceMs)
  let hung = false
  const end = (): void => {
    hung = true
    child.kill('SIGKILL')
  }
  let timer = setTimeout(end, limitMs())
  const complaints: string[] = []
  createInterface(child.stderr).on('line', (line) => {
    console.error(line)
    if (line.trim() !== '') complaints.push(line.trim())
    complaints.splice(0, complaints.length - complaintLines)
  })
  const output = createInterface(child.stdout)
  output.on('line', (line) => {
    const result = parseResultLine(line)
    if (result === null) return console.log(line)
    clearTimeout(timer)
    timer = setTimeout(end, limitMs())
    found.add(result.item)
    run.onFound(result)
  })
  const [code, signal] = await new Promise<readonly [number | null, string | null]>((resolve) => {
    child.on('close', (...ended) => resolve(ended))
    child.on('error', (error) => {
      complaints.push(error.message)
      resolve([null, null])
    })
  })
  clearTimeout(timer)
  if (code === 0) return { found, failure: null }
  if (code === deviceLostExitCode) return { found, failure: 'device lost' }
  const how = hung
    ? 'nothing came in time, it was ended'
    : `its process ended with ${signal ?? code}`
  return { found, failure: [how, ...complaints].join('; ') }
}
