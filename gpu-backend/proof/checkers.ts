import { strict as assert } from 'node:assert'
import { spawnSync } from 'node:child_process'
import { opNames } from '../src/kernels/testing/all-cases.ts'
import { parseResultLine, stageCommand } from './stage-process.ts'
import {
  type CheckerResult,
  type CheckerTool,
  checkerTools,
  type OpResult,
  type ProofOptions,
} from './stages.ts'

const places = ['compute-sanitizer', '/usr/local/cuda/bin/compute-sanitizer']
/** Its exit code where it found something; the suite's own process never ends with it. */
const foundExitCode = 9
/** Beyond the suite's own limit: to start, and to write down what was found. */
const graceMs = 20_000

/** Runs the op suite again, in a process of its own, under one of the toolkit's checkers. */
export function runChecker(
  name: string,
  options: ProofOptions & { readonly until: number },
): CheckerResult {
  const tool = checkerTools.find((known) => known === name)
  assert(tool !== undefined, `there is no checker ${name}`)
  const program = places.find((place) => spawnSync(place, ['--version']).status === 0)
  if (program === undefined) {
    const summary = 'compute-sanitizer is not on this machine'
    return { tool, clean: null, cases: 0, left: 0, summary }
  }
  const suite = stageCommand('ops', opNames, { ...options, toy: true })
  const { status, stdout, stderr } = spawnSync(program, [...checkerArguments(tool), ...suite], {
    timeout: Math.max(0, options.until - Date.now()) + graceMs,
    killSignal: 'SIGKILL',
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
  })
  return readVerdict(tool, status, `${stdout}\n${stderr}`)
}

/**
 * A kernel is asked for in every module until one has it, and a driver call that answers "not found"
 * is no mistake: calls are judged by who makes them, not by the checker.
 */
export function checkerArguments(tool: CheckerTool): readonly string[] {
  const how = ['--target-processes', 'all', '--report-api-errors', 'no', '--print-limit', '20']
  return ['--tool', tool, ...how, '--error-exitcode', String(foundExitCode)]
}

/** What a checker's exit code and output say; `status` is null where it was ended. */
export function readVerdict(
  tool: CheckerTool,
  status: number | null,
  output: string,
): CheckerResult {
  const lines = output.split('\n')
  const results = lines.flatMap((line): readonly OpResult[] => {
    const found = parseResultLine(line)
    return found?.stage === 'ops' ? [found.result as OpResult] : []
  })
  const sum = (count: (result: OpResult) => number): number =>
    results.reduce((total, result) => total + count(result), 0)
  const wrong = sum(({ failed, refused }) => failed + refused)
  const cases = sum(({ passed }) => passed) + wrong
  const left = sum((result) => result.left)
  const said = lines.findLast((line) => /(ERROR|RACECHECK) SUMMARY/.test(line))
  const summary = said?.replace(/^[=\s]*/, '').trim()
  if (status === foundExitCode) {
    return { tool, clean: false, cases, left, summary: summary ?? 'errors' }
  }
  if (status !== 0 || cases === 0) {
    const last = lines.findLast((line) => line.trim() !== '') ?? 'no output'
    const how = status === null ? 'it ran out of time' : `it ended with ${status}`
    return { tool, clean: null, cases, left, summary: `${how}: ${summary ?? last}` }
  }
  if (wrong > 0) {
    return { tool, clean: false, cases, left, summary: `${wrong} cases went wrong under it` }
  }
  return { tool, clean: true, cases, left, summary: summary ?? 'no errors' }
}
