import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { generateKeyJwks, importPrivateKey } from '#protocol/keys.ts'
import type { PrivateJwk } from '#protocol/keys.ts'
import { signPoolToken } from '#protocol/service-token.ts'
import { recordPageSchema } from '#protocol/usage-record.ts'
import { toyModelId } from '#weights/toy/files.ts'
import { ensureNativeAddon } from '../../gpu-backend/src/kernels/native/build.ts'
import { freePort } from '../../infra/local/ports.ts'
import { startCrashLink } from './crash-link.ts'
import type { CrashLink } from './crash-link.ts'
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
  /** SIGKILL there and then; resolves when it is up again. */
  crash(): Promise<void>
  /** Holds it still for as long, and lets it go on as if nothing had been. */
  freeze(ms: number): Promise<void>
  stop(): Promise<void>
}

export interface CrashWorld {
  readonly edgeUrl: string
  readonly edge: Part
  readonly backend: Part
  readonly proxy: RecordProxy
  readonly link: CrashLink
  readonly model: string
  /** Records that the backend has and the edge has not acknowledged, 256 at most. */
  unacknowledged(): Promise<number>
  admin<T>(method: string, path: string, body?: unknown): Promise<T>
  close(): Promise<void>
}

/** Edge in workerd, engine on the CPU, and between them roads that lose records and connections. */
export async function startCrashWorld(folder: string, random: () => number): Promise<CrashWorld> {
  const [edgeKeys, recordKeys] = await Promise.all([generateKeyJwks(), generateKeyJwks()])
  const [edgePort, backendPort] = [await freePort(), await freePort()]
  const edgeUrl = `http://127.0.0.1:${edgePort}`
  const backendUrl = `http://127.0.0.1:${backendPort}`
  const proxy = await startRecordProxy(edgePort, random)
  const link = await startCrashLink(backendPort)
  const started: Part[] = []
  const close = async (): Promise<void> => {
    await Promise.all(started.map((part) => part.stop()))
    await Promise.all([proxy.close(), link.close()])
  }
  const pools = [
    { id: POOL, url: link.url, models: [toyModelId], recordPublicKey: recordKeys.publicJwk },
  ]
  const edgeVars = {
    POOLS: JSON.stringify(pools),
    EDGE_SIGNING_KEY: JSON.stringify(edgeKeys.privateJwk),
    ADMIN_TOKEN,
  }
  const edgeOptions = { port: edgePort, stateDir: join(folder, 'edge'), vars: edgeVars }
  const backendEnv = {
    ...(await engineEnv(folder)),
    SLUICE_PORT: String(backendPort),
    SLUICE_EDGE_URL: proxy.url,
    SLUICE_EDGE_PUBLIC_KEY: JSON.stringify(edgeKeys.publicJwk),
    SLUICE_RECORD_PRIVATE_KEY: JSON.stringify(recordKeys.privateJwk),
  }
  try {
    const edge = await startPart({ ...edgePart(edgeOptions), readyUrl: `${edgeUrl}/health` })
    started.push(edge)
    const readyUrl = `${backendUrl}/ready`
    const backend = await startPart({ ...BACKEND_PART, env: backendEnv, readyUrl })
    started.push(backend)
    return {
      edgeUrl,
      edge,
      backend,
      proxy,
      link,
      model: toyModelId,
      unacknowledged: () => countRecords(backendUrl, edgeKeys.privateJwk),
      admin: (method, path, body) => adminCall(edgeUrl, { method, path, body }),
      close,
    }
  } catch (error) {
    await close()
    throw error
  }
}

/** The native kernels where they can be built: the reference ones take three times as long. */
async function engineEnv(folder: string): Promise<Record<string, string>> {
  const built = await ensureNativeAddon({ onProgress: () => undefined })
  return {
    SLUICE_CHECKPOINT: await publishToy(folder),
    SLUICE_DEVICE: 'reason' in built ? 'reference' : 'cpu',
    SLUICE_POOL: POOL,
    SLUICE_BACKEND_ID: 'crash-1',
    SLUICE_SPOOL_DIR: join(folder, 'spool'),
    SLUICE_LOG: 'error',
  }
}

interface PartOptions {
  readonly script: string
  readonly env: Readonly<Record<string, string>>
  readonly readyUrl: string
  /** Which process of the part dies: itself, or the one that it starts and starts again. */
  readonly victim: 'itself' | 'workerd'
}

const BACKEND_PART = { script: 'gpu-backend/src/main.ts', victim: 'itself' } as const

/** What starts workerd stays: it is none of what is tried, and takes seconds to come back. */
function edgePart(options: object): Omit<PartOptions, 'readyUrl'> {
  const env = { EDGE_OPTIONS: JSON.stringify(options) }
  return { script: 'test/support/edge-process.ts', env, victim: 'workerd' }
}

async function startPart(options: PartOptions): Promise<Part> {
  let running = launch(options)
  const kill = async (): Promise<void> => {
    const { child, gone } = running
    killGroup(child)
    await gone
  }
  const signal = (name: NodeJS.Signals): void => {
    for (const pid of childrenOf(running.child.pid, options.victim)) process.kill(pid, name)
  }
  await ready(options, running).catch(async (error: unknown) => {
    await kill()
    throw error
  })
  return {
    crash: async () => {
      if (options.victim === 'itself') {
        await kill()
        running = launch(options)
      } else {
        signal('SIGKILL')
      }
      await ready(options, running)
    },
    freeze: async (ms) => {
      signal('SIGSTOP')
      await sleep(ms)
      signal('SIGCONT')
    },
    stop: kill,
  }
}

/** The processes of this name that `parent` has started. */
function childrenOf(parent: number | undefined, name: string): number[] {
  const children = readFileSync(`/proc/${parent}/task/${parent}/children`, 'utf8')
  return children
    .split(' ')
    .filter((pid) => pid.trim() !== '')
    .filter((pid) => readFileSync(`/proc/${pid}/comm`, 'utf8').trim() === name)
    .map(Number)
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

async function countRecords(backendUrl: string, key: PrivateJwk): Promise<number> {
  const privateKey = await importPrivateKey(JSON.stringify(key))
  const token = await signPoolToken({ pool: POOL, scope: 'records' }, privateKey, Date.now())
  const headers = { authorization: `Bearer ${token}` }
  const response = await fetch(`${backendUrl}/v1/records`, { headers })
  return recordPageSchema.parse(await response.json()).records.length
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
