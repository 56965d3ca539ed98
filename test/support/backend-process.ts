import { spawn, type ChildProcess } from 'node:child_process'

const main = new URL('../../gpu-backend/src/main.ts', import.meta.url).pathname

export interface BackendProcess {
  readonly child: ChildProcess
  /** Everything it has said so far. */
  readonly output: { stdout: string; stderr: string }
  readonly ended: Promise<number | NodeJS.Signals | null>
  /** Resolves with its URL once it has told of the event; rejects when it ends without. */
  readonly told: (event: 'listening' | 'ready') => Promise<string>
}

/** Starts a backend as its operator does. Whoever starts it ends it. */
export function startBackendProcess(env: Record<string, string>): BackendProcess {
  const child = spawn(process.execPath, [main], { env, stdio: ['ignore', 'pipe', 'pipe'] })
  const output = { stdout: '', stderr: '' }
  child.stdout.on('data', (chunk: Buffer) => (output.stdout += chunk.toString()))
  child.stderr.on('data', (chunk: Buffer) => (output.stderr += chunk.toString()))
  const ended = new Promise<number | NodeJS.Signals | null>((resolve) => {
    child.on('close', (code, signal) => resolve(signal ?? code))
  })
  return {
    child,
    output,
    ended,
    told: (event) =>
      new Promise((resolve, reject) => {
        const line = new RegExp(`^\\{"event":"${event}","url":"([^"]+)"\\}$`, 'm')
        const look = (): void => {
          const url = line.exec(output.stdout)?.[1]
          if (url !== undefined) resolve(url)
        }
        child.stdout.on('data', look)
        look()
        void ended.then((code) => reject(new Error(`ended with ${code}: ${output.stderr}`)))
      }),
  }
}
