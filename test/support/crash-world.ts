import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { generateKeyJwks } from '#protocol/keys.ts'
import { toyModelId } from '#weights/toy/files.ts'
import { freePort } from '../../infra/local/ports.ts'
import { publishToy } from './gpu-backend.ts'
import { startRecordProxy } from './record-proxy.ts'
import type { RecordProxy } from './record-proxy.ts'

const ROOT = new URL('../..', import.meta.url).pathname
const POOL = 'crash'
const ADMIN_TOKEN = 'an-admin-token-of-forty-characters-or-so'
const READY_WITHIN_MS = 60_000
const LAST_WORDS_LENGTH = 4_000

/** A part that dies and comes back under the same address, with the same folder. */
export interface Part {
  /** SIGKILL to it and everything it has started; resolves when it is up again. */
  crash(): Promise<void>
  stop(): Promise<void>
}

export interface CrashWorld {
  readonly edgeUrl: string
  readonly edge: Part
  readonly backend: Part
  readonly proxy: RecordProxy
  readonly model: string
  admin<T>(method: string, path: string, body?: unknown): Promise<T>
  close(): Promise<void>
}

/** Edge in workerd, engine on the reference device, and between them a link that loses records. */
export async function startCrashWorld(folder: string, random: () => number): Promise<CrashWorld> {
  const [edgeKeys, recordKeys] = await Promise.all([generateKeyJwks(), generateKeyJwks()])
  const [edgePort, backendPort] = [await freePort(), await freePort()]
  const checkpoint = await publishToy(folder)
  const edgeUrl = `http://127.0.0.1:${edgePort}`
  const backendUrl = `http://127.0.0.1:${backendPort}`
  const proxy = await startRecordProxy(edgePort, random)
  const pools = [
    { id: POOL, url: backendUrl, models: [toyModelId], recordPublicKey: recordKeys.publicJwk },
  ]
  const vars = {
    POOLS: JSON.stringify(pools),
    EDGE_SIGNING_KEY: JSON.stringify(edgeKeys.privateJwk),
    ADMIN_TOKEN,
  }
  const edgeOptions = { port: edgePort, stateDir: join(folder, 'edge'), vars }
  const edge = await startPart({
    script: 'test/support/edge-process.ts',
    env: { EDGE_OPTIONS: JSON.stringify(edgeOptions) },
    readyUrl: `${edgeUrl}/health`,
  })
  const backend = await startPart({
    script: 'gpu-backend/src/main.ts',
    env: {
      SLUICE_CHECKPOINT: checkpoint,
      SLUICE_DEVICE: 'reference',
      SLUICE_POOL: POOL,
      SLUICE_BACKEND_ID: 'crash-1',
      SLUICE_PORT: String(backendPort),
      SLUICE_EDGE_URL: proxy.url,
      SLUICE_EDGE_PUBLIC_KEY: JSON.stringify(edgeKeys.publicJwk),
      SLUICE_RECORD_PRIVATE_KEY: JSON.stringify(recordKeys.privateJwk),
      SLUICE_SPOOL_DIR: join(folder, 'spool'),
      SLUICE_LOG: 'error',
    },
    readyUrl: `${backendUrl}/ready`,
  }).catch(async (error: unknown) => {
    await edge.stop()
    await proxy.close()
    throw error
  })
  return {
    edgeUrl,
    edge,
    backend,
    proxy,
    model: toyModelId,
    admin: (method, path, body) => adminCall(edgeUrl, { method, path, body }),
    close: async () => {
      await Promise.all([backend.stop(), edge.stop()])
      await proxy.close()
    },
  }
}

interface PartOptions {
  readonly script: string
  readonly env: Readonly<Record<string, string>>
  readonly readyUrl: string
}

async function startPart(options: PartOptions): Promise<Part> {
  let running = launch(options)
  const kill = async (): Promise<void> => {
    const { child, gone } = running
    killGroup(child)
    await gone
  }
  await ready(options, running)
  return {
    crash: async () => {
      await kill()
      running = launch(options)
      await ready(options, running)
    },
    stop: kill,
  }
}

interface Running {
  readonly child: ChildProcess
  readonly gone: Promise<unknown>
  /** The end of what it has said on standard error. */
  readonly lastWords: () => string
}

/** Its whole process group, since workerd is a child of the process that we started. */
function killGroup({ pid, exitCode, signalCode }: ChildProcess): void {
  if (pid !== undefined && exitCode === null && signalCode === null) process.kill(-pid, 'SIGKILL')
}

function launch({ script, env }: PartOptions): Running {
  const child = spawn(process.execPath, [script], {
    cwd: ROOT,
    env: { PATH: process.env['PATH'] ?? '', ...env },
    stdio: ['ignore', 'ignore', 'pipe'],
    detached: true,
  })
  let words = ''
  child.stderr.on('data', (chunk: Buffer) => {
    words = (words + chunk.toString()).slice(-LAST_WORDS_LENGTH)
  })
  const killOnExit = (): void => killGroup(child)
  process.once('exit', killOnExit)
  const gone = new Promise((resolve) => child.once('exit', resolve))
  void gone.then(() => process.removeListener('exit', killOnExit))
  return { child, gone, lastWords: () => words }
}

async function ready({ script, readyUrl }: PartOptions, running: Running): Promise<void> {
  const untilMs = performance.now() + READY_WITHIN_MS
  while (performance.now() < untilMs && running.child.exitCode === null) {
    // Not listening yet, or not ready.
    const ok = await fetch(readyUrl).then(
      (response) => response.ok,
      () => false,
    )
    if (ok) return
    await sleep(25)
  }
  throw new Error(`${script} was not ready in time: ${running.lastWords()}`)
}

async function adminCall<T>(
  edgeUrl: string,
  { method, path, body }: { method: string; path: string; body: unknown },
): Promise<T> {
  const response = await fetch(`${edgeUrl}/admin${path}`, {
    method,
    headers: { authorization: `Bearer ${ADMIN_TOKEN}` },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  })
  if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`)
  return (await response.json()) as T
}
