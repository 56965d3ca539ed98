import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { openSync } from 'node:fs'
import { mkdir, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { freePort } from '../../infra/local/ports.ts'

export interface WorkerdOptions {
  /** The Worker as one module. */
  readonly script: string
  readonly vars: Readonly<Record<string, string>>
  /** Durable Objects by binding; the values are exported classes. */
  readonly objects: Readonly<Record<string, string>>
  /** An empty folder: configuration, databases and the log go there. */
  readonly dir: string
}

export interface RunningWorkerd {
  readonly url: string
  readonly pid: number
  close(): Promise<void>
}

const READY_POLL_MS = 20
const READY_TRIES = 500

/** workerd by itself, as it runs in production, without Miniflare's door and log collector. */
export async function startWorkerd(options: WorkerdOptions): Promise<RunningWorkerd> {
  const { dir, script } = options
  const port = await freePort()
  await mkdir(join(dir, 'objects'), { recursive: true })
  await writeFile(join(dir, 'index.js'), script)
  await writeFile(join(dir, 'config.capnp'), configText(options, port))
  const log = openSync(join(dir, 'log.txt'), 'w')
  const child = spawn(workerdPath(), ['serve', 'config.capnp'], {
    cwd: dir,
    stdio: ['ignore', log, log],
  })
  const ended = once(child, 'exit')
  const url = `http://127.0.0.1:${port}`
  await answers(`${url}/health`)
  return {
    url,
    pid: child.pid ?? 0,
    close: async () => {
      child.kill()
      await ended
    },
  }
}

/** The program that Miniflare starts. */
function workerdPath(): string {
  const fromMiniflare = createRequire(createRequire(import.meta.url).resolve('miniflare'))
  return (fromMiniflare('workerd') as { readonly default: string }).default
}

async function answers(url: string): Promise<void> {
  for (let tries = 0; tries < READY_TRIES; tries += 1) {
    const response = await fetch(url).catch(() => null)
    await response?.body?.cancel()
    if (response !== null) return
    await sleep(READY_POLL_MS)
  }
  throw new Error(`workerd does not answer at ${url}`)
}

function configText({ vars, objects }: WorkerdOptions, port: number): string {
  const text = (value: string): string => JSON.stringify(value)
  const bindings = [
    ...Object.entries(vars).map(([name, value]) => `(name = ${text(name)}, text = ${text(value)})`),
    ...Object.entries(objects).map(
      ([name, className]) => `(name = ${text(name)}, durableObjectNamespace = ${text(className)})`,
    ),
  ]
  const namespaces = Object.values(objects).map(
    (name) => `(className = ${text(name)}, uniqueKey = ${text(name)}, enableSql = true)`,
  )
  return `using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "main", worker = (
      modules = [(name = "index.js", esModule = embed "index.js")],
      compatibilityDate = "2026-10-01",
      compatibilityFlags = ["enable_request_signal"],
      bindings = [${bindings.join(', ')}],
      durableObjectNamespaces = [${namespaces.join(', ')}],
      durableObjectStorage = (localDisk = "objects"),
    )),
    (name = "internet", network = (allow = ["private", "public"])),
    (name = "objects", disk = (path = "objects", writable = true)),
  ],
  sockets = [(name = "http", address = "127.0.0.1:${port}", http = (), service = "main")],
);
`
}
