import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { createInterface } from 'node:readline'

export interface Child {
  readonly pid: number
  /** Resolves with how the process ended; never rejects. */
  readonly exited: Promise<string>
  /** Asks with SIGTERM, insists with SIGKILL once `graceMs` are over. */
  stop(graceMs: number): Promise<void>
  kill(signal: NodeJS.Signals): void
}

export interface ChildOptions {
  readonly args: readonly string[]
  readonly env: Readonly<Record<string, string>>
  readonly cwd: string
  /** Each line the process prints, without its line end. */
  readonly onLine: (line: string) => void
}

function onceExited(child: ChildProcess): Promise<string> {
  return new Promise((resolve) => {
    child.once('error', (error) => resolve(`could not start: ${error.message}`))
    child.once('exit', (code, signal) => {
      resolve(signal === null ? `exit code ${code}` : `signal ${signal}`)
    })
  })
}

/** Starts a Node process of this repository under the Node that runs us, following its output. */
export function startNode(options: ChildOptions): Child {
  const child = spawn(process.execPath, options.args, {
    cwd: options.cwd,
    env: options.env,
    stdio: ['ignore', 'pipe', 'pipe'],
    // Its own process group: Ctrl-C in the terminal reaches us alone, and we stop parts in order.
    detached: true,
  })
  for (const stream of [child.stdout, child.stderr]) {
    createInterface({ input: stream }).on('line', options.onLine)
  }
  const exited = onceExited(child)
  // A parent that dies by an exception must not leave the part behind.
  const killOnExit = (): void => void child.kill('SIGKILL')
  process.once('exit', killOnExit)
  void exited.then(() => process.removeListener('exit', killOnExit))
  return {
    pid: child.pid ?? -1,
    exited,
    kill: (signal) => void child.kill(signal),
    async stop(graceMs) {
      child.kill('SIGTERM')
      const insist = setTimeout(() => child.kill('SIGKILL'), graceMs)
      await exited
      clearTimeout(insist)
    },
  }
}
