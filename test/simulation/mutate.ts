import { execFile } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { Mutation } from './mutations.ts'

const ROOT = new URL('../..', import.meta.url).pathname
const CORE = 'edge/src/admission'
const SIMULATION = 'test/simulation'

/** `line` is the first thing found wrong; null: nothing was. */
export interface MutantResult {
  readonly name: string
  readonly line: string | null
}

/** Plants a mistake in a copy of the core and runs `seeds` seeds on it, until one finds it. */
export async function runMutant(mutation: Mutation, seeds: number): Promise<MutantResult> {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-mutant-'))
  try {
    cpSync(join(ROOT, CORE), join(folder, CORE), { recursive: true })
    cpSync(join(ROOT, SIMULATION), join(folder, SIMULATION), { recursive: true })
    cpSync(join(ROOT, 'package.json'), join(folder, 'package.json'))
    symlinkSync(join(ROOT, 'gpu-backend'), join(folder, 'gpu-backend'))
    plant(join(folder, CORE, mutation.file), mutation)
    const line = await firstFinding(join(folder, SIMULATION, 'main.ts'), seeds)
    return { name: mutation.name, line }
  } finally {
    rmSync(folder, { recursive: true })
  }
}

function plant(path: string, { name, find, replace }: Mutation): void {
  const text = readFileSync(path, 'utf8')
  if (text.split(find).length !== 2) throw new Error(`'${name}' has no single place in ${path}`)
  writeFileSync(
    path,
    text.replace(find, () => replace),
  )
}

async function firstFinding(main: string, seeds: number): Promise<string | null> {
  try {
    await promisify(execFile)(process.execPath, [main, '--first', '--seeds', String(seeds)])
    return null
  } catch (error) {
    const { stdout = '', stderr = '' } = error as { stdout?: string; stderr?: string }
    // A broken invariant, or an assertion of the core itself.
    const lines = `${stdout}\n${stderr}`.split('\n')
    return lines.find((line) => /^seed |Error: /.test(line)) ?? lines.join(' ').slice(0, 200)
  }
}
