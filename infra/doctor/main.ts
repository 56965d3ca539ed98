import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { availableParallelism, totalmem } from 'node:os'
import { promisify } from 'node:util'
import { Command } from 'commander'
import { listDevices } from '../../gpu-backend/src/device/open.ts'
import { probePort } from '../local/ports.ts'
import { judge } from './findings.ts'
import type { MachineFacts, Verdict } from './findings.ts'

const run = promisify(execFile)

/** What a tool prints of its version on the line that `pick` finds, or null if it is not here. */
async function versionOf(tool: string, pick: RegExp): Promise<string | null> {
  try {
    const { stdout } = await run(tool, ['--version'])
    return pick.exec(stdout)?.[0] ?? null
  } catch {
    // Not installed, or it cannot run here: the same thing to us.
    return null
  }
}

async function nvidiaDriver(): Promise<string | null> {
  try {
    const text = await readFile('/proc/driver/nvidia/version', 'utf8')
    return /\b\d{3}\.\d+(\.\d+)?\b/.exec(text)?.[0] ?? null
  } catch {
    // The file is there exactly when the kernel driver is loaded.
    return null
  }
}

async function gatherFacts(port: number): Promise<MachineFacts> {
  const [compiler, driver, nvcc, free, devices] = await Promise.all([
    versionOf('g++', /^.+$/m),
    nvidiaDriver(),
    versionOf('nvcc', /release [^,\n]+/),
    probePort(port),
    listDevices({ onNote: (note) => process.stderr.write(`${note}\n`) }),
  ])
  return {
    nodeVersion: process.versions.node,
    platform: `${process.platform}-${process.arch}`,
    cores: availableParallelism(),
    memoryBytes: totalmem(),
    compiler,
    nvidiaDriver: driver,
    nvcc,
    port,
    portFree: free !== null,
    devices,
  }
}

const MARKS: Readonly<Record<Verdict, string>> = { good: '✓', limited: '·', bad: '✗' }

const command = new Command('npm run doctor --')
  .description('Tells what this machine has and what that means for running Sluice.')
  .option('--port <number>', 'the port npm start would use', Number, 8787)
  .option('--json', 'one JSON object instead of text')
  .parse()
const options = command.opts<{ port: number; json?: true }>()

const findings = judge(await gatherFacts(options.port))
if (options.json) {
  process.stdout.write(`${JSON.stringify({ findings })}\n`)
} else {
  for (const { name, verdict, found, means } of findings) {
    process.stdout.write(`${MARKS[verdict]} ${name.padEnd(14)} ${found} — ${means}\n`)
  }
}
process.exitCode = findings.some(({ verdict }) => verdict === 'bad') ? 1 : 0
