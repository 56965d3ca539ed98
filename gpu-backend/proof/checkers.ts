import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'

/** A memory or race checker's verdict on the op suite's small cases. */
export interface CheckerResult {
  readonly tool: 'memcheck' | 'racecheck' | 'synccheck'
  /** null: not run, `summary` says why. */
  readonly clean: boolean | null
  readonly summary: string
}

const tools = ['memcheck', 'racecheck', 'synccheck'] as const
const places = ['compute-sanitizer', '/usr/local/cuda/bin/compute-sanitizer']
const foundExitCode = 9
const timeLimitMs = 100_000

/** Runs the op suite again, in a process of its own, under each of the toolkit's checkers. */
export function runCheckers(main: string): readonly CheckerResult[] {
  const program = places.find((place) => existsSync(place) || runs(place))
  if (program === undefined) {
    const summary = 'compute-sanitizer is not on this machine'
    return tools.map((tool) => ({ tool, clean: null, summary }))
  }
  return tools.map((tool) => runChecker(program, tool, main))
}

function runs(program: string): boolean {
  return spawnSync(program, ['--version']).status === 0
}

function runChecker(program: string, tool: CheckerResult['tool'], main: string): CheckerResult {
  const check = ['--tool', tool, '--error-exitcode', String(foundExitCode)]
  const suite = [process.execPath, main, '--only', 'ops', '--toy', '--dry']
  const { status, stdout, stderr } = spawnSync(program, [...check, ...suite], {
    timeout: timeLimitMs,
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
  })
  const summary = /ERROR SUMMARY: .*|RACECHECK SUMMARY: .*/.exec(`${stdout}${stderr}`)?.[0]
  if (status === 0) return { tool, clean: true, summary: summary ?? 'no errors' }
  if (status === foundExitCode) return { tool, clean: false, summary: summary ?? 'errors' }
  const why = status === null ? 'it ran out of time' : `it ended with ${status}`
  return { tool, clean: null, summary: summary ?? why }
}
