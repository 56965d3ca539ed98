import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { z } from 'zod'
import { toyModelId } from '#weights/toy/files.ts'
import { ensureNativeAddon } from '../../gpu-backend/src/kernels/native/build.ts'
import { startNode } from './child.ts'
import type { Child } from './child.ts'
import { startEdge } from './edge.ts'
import { startObjectStore } from './object-store.ts'
import { freePort } from './ports.ts'
import { loadOrCreateSecrets, saveSecrets } from './secrets.ts'
import type { LocalSecrets } from './secrets.ts'
import { ensureToyPublished } from './toy-checkpoint.ts'

const ROOT = new URL('../..', import.meta.url).pathname
const POOL = 'local'
const BUCKET = 'checkpoints'
const STOP_GRACE_MS = 12_000
const READY_POLL_MS = 50

export interface StackOptions {
  readonly stateDir: string
  /** The edge's port on loopback. */
  readonly port: number
  readonly device: string
  /** A part's log line, for showing with the part's name before it. */
  readonly onLog: (part: string, line: string) => void
  /** One line of progress for the person who waits. */
  readonly onProgress: (line: string) => void
}

export interface Stack {
  readonly edgeUrl: string
  readonly backendUrl: string
  readonly apiKey: string
  readonly adminToken: string
  readonly model: string
  /** The device that the backend found to serve with. */
  readonly device: string
  readonly backend: Child
  /** Stops every part, newest first. Safe to call twice. */
  close(): Promise<void>
}

interface Parts {
  readonly closers: (() => Promise<unknown>)[]
}

/**
 * Brings up the whole of Sluice on loopback: an S3 store holding the toy checkpoint, a backend that
 * loads it from there, the edge in workerd. Resolves when a completion can be asked for.
 */
export async function startStack(options: StackOptions): Promise<Stack> {
  const parts: Parts = { closers: [] }
  try {
    return await startParts(options, parts)
  } catch (error) {
    await closeAll(parts)
    throw error
  }
}

async function startParts(options: StackOptions, parts: Parts): Promise<Stack> {
  const { stateDir, onProgress } = options
  const secrets = await loadOrCreateSecrets(stateDir)
  const backendPort = await freePort()
  const backendUrl = `http://127.0.0.1:${backendPort}`
  const edgeUrl = `http://127.0.0.1:${options.port}`

  // The edge needs nothing from the store or the backend to start, so both sides start at once.
  const [edge, backend] = await Promise.all([
    startTracked(parts, () => startLocalEdge(options, secrets, backendUrl)),
    startStoreAndBackend(options, parts, secrets, { backendPort, edgeUrl }),
  ])
  const device = await waitUntilReady(backendUrl, backend, onProgress)
  const apiKey = await ensureApiKey(stateDir, edge.url, secrets)
  return {
    edgeUrl: edge.url,
    backendUrl,
    apiKey,
    adminToken: secrets.adminToken,
    model: toyModelId,
    device,
    backend,
    close: () => closeAll(parts),
  }
}

async function closeAll(parts: Parts): Promise<void> {
  for (const close of parts.closers.splice(0).toReversed()) await close()
}

async function startTracked<T extends { close(): Promise<unknown> }>(
  parts: Parts,
  start: () => Promise<T>,
): Promise<T> {
  const part = await start()
  parts.closers.push(() => part.close())
  return part
}

function startLocalEdge(
  options: StackOptions,
  secrets: LocalSecrets,
  backendUrl: string,
): ReturnType<typeof startEdge> {
  const recordPublicKey = secrets.recordSigning.publicJwk
  const pools = [{ id: POOL, url: backendUrl, models: [toyModelId], recordPublicKey }]
  return startEdge({
    port: options.port,
    stateDir: join(options.stateDir, 'edge'),
    onLog: (line) => options.onLog('edge', line),
    vars: {
      POOLS: JSON.stringify(pools),
      EDGE_SIGNING_KEY: JSON.stringify(secrets.edgeSigning.privateJwk),
      ADMIN_TOKEN: secrets.adminToken,
    },
  })
}

async function startStoreAndBackend(
  options: StackOptions,
  parts: Parts,
  secrets: LocalSecrets,
  at: { readonly backendPort: number; readonly edgeUrl: string },
): Promise<Child> {
  const { stateDir, onLog, onProgress } = options
  const store = await startTracked(parts, () =>
    startObjectStore({
      ...secrets.objectStore,
      bucket: BUCKET,
      stateDir: join(stateDir, 'object-store'),
    }),
  )
  const s3Env = {
    AWS_ENDPOINT_URL: store.endpoint,
    AWS_REGION: 'auto',
    AWS_ACCESS_KEY_ID: secrets.objectStore.accessKeyId,
    AWS_SECRET_ACCESS_KEY: secrets.objectStore.secretAccessKey,
  }
  const checkpointUrl = `s3://${BUCKET}/${toyModelId}`
  await Promise.all([
    ensureToyPublished({ stateDir, checkpointUrl, modelId: toyModelId, env: s3Env, onProgress }),
    compileKernels(options),
  ])

  const backend = startNode({
    args: ['gpu-backend/src/main.ts'],
    cwd: ROOT,
    onLine: (line) => onLog('backend', line),
    env: {
      ...s3Env,
      // What the native kernels are compiled with has to be found there as it is here.
      PATH: process.env['PATH'] ?? '',
      ...(process.env['CXX'] === undefined ? {} : { CXX: process.env['CXX'] }),
      SLUICE_CHECKPOINT: checkpointUrl,
      SLUICE_DEVICE: options.device,
      SLUICE_POOL: POOL,
      SLUICE_BACKEND_ID: 'local-1',
      SLUICE_HOST: '127.0.0.1',
      SLUICE_PORT: String(at.backendPort),
      SLUICE_EDGE_URL: at.edgeUrl,
      SLUICE_EDGE_PUBLIC_KEY: JSON.stringify(secrets.edgeSigning.publicJwk),
      SLUICE_RECORD_PRIVATE_KEY: JSON.stringify(secrets.recordSigning.privateJwk),
      SLUICE_SPOOL_DIR: join(stateDir, 'spool'),
    },
  })
  parts.closers.push(() => backend.stop(STOP_GRACE_MS))
  return backend
}

/** Here, where somebody is told how long it takes; the backend then finds them compiled. */
async function compileKernels({ device, onProgress }: StackOptions): Promise<void> {
  if (device !== 'auto' && device !== 'cpu') return
  const built = await ensureNativeAddon({ onProgress })
  if ('reason' in built) onProgress(`no native kernels: ${built.reason}`)
}

/** Polls `/ready` and gives the device it names; gives up when the process ends, with how. */
async function waitUntilReady(
  backendUrl: string,
  backend: Child,
  onProgress: (line: string) => void,
): Promise<string> {
  onProgress('waiting for the backend to load the checkpoint')
  const gone = new AbortController()
  void backend.exited.then((how) => {
    gone.abort(new Error(`the backend ended before it was ready: ${how}`))
  })
  for (;;) {
    gone.signal.throwIfAborted()
    const ready = await fetch(`${backendUrl}/ready`).then(
      (response) => (response.ok ? response.json() : null),
      // Not listening yet.
      () => null,
    )
    if (ready !== null) return z.object({ device: z.string() }).parse(ready).device
    await sleep(READY_POLL_MS)
  }
}

/** The key printed at start: made through the admin API like any operator's first key. */
async function ensureApiKey(
  stateDir: string,
  edgeUrl: string,
  secrets: LocalSecrets,
): Promise<string> {
  if (secrets.apiKey !== null) return secrets.apiKey
  const tenant = await adminPost(edgeUrl, secrets, '/admin/tenants', { name: 'local' })
  const path = `/admin/tenants/${String(tenant['tenant_id'])}/keys`
  const created = await adminPost(edgeUrl, secrets, path, { name: 'first key' })
  const apiKey = String(created['key'])
  await saveSecrets(stateDir, { ...secrets, apiKey })
  return apiKey
}

async function adminPost(
  edgeUrl: string,
  secrets: LocalSecrets,
  path: string,
  body: unknown,
): Promise<Record<string, unknown>> {
  const response = await fetch(`${edgeUrl}${path}`, {
    method: 'POST',
    headers: {
      authorization: `Bearer ${secrets.adminToken}`,
      'content-type': 'application/json',
    },
    body: JSON.stringify(body),
  })
  if (!response.ok) {
    throw new Error(`the edge answered ${response.status} to ${path}: ${await response.text()}`)
  }
  return (await response.json()) as Record<string, unknown>
}
