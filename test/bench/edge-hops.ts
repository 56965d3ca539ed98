import { fork } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { bundleEdge } from '../../infra/local/edge.ts'
import { EDGE_MODEL, EDGE_POOL, makeEdgeSecrets, startEdgeUnderTest } from '../support/edge.ts'
import type { EdgeSecrets } from '../support/edge.ts'
import { startWorkerd } from '../support/workerd.ts'
import type { BackendCommand, BackendReady } from './edge-backend.ts'
import type { LoadCommand, LoadResult } from './edge-load.ts'
import { startPeer } from './edge-peer.ts'
import { startProbe } from './edge-streams.ts'

/** One way to the backend. */
export interface Hop {
  readonly name: string
  readonly url: string
  readonly headers: Readonly<Record<string, string>>
  /** The process that serves it, where its processor time is worth telling. */
  readonly pid: number | null
  /** Takes this long until requests are let in by leases. */
  readonly warmUpSeconds: number
}

export const DIRECT = 'straight from the backend'
export const FORWARD = 'a Worker that only forwards'
export const EDGE = 'the edge, on workerd'
export const MINIFLARE = 'the edge, behind Miniflare'
export const PEER = 'the peer'

export interface World {
  readonly hops: readonly Hop[]
  readonly edge: { readonly url: string; readonly adminToken: string; readonly keyPath: string }
  readonly edgeLog: string
  readonly peerVersion: string | null
  stream(events: number, gapMs: number): void
  load(command: Partial<LoadCommand>, hop: Hop): Promise<LoadResult>
  close(): Promise<void>
}

const LEASES_AFTER_SECONDS = 2.2
const WARM_UP_SECONDS = 0.3

/** A backend, a load, and every way between them, each a process of its own. */
export async function startWorld(dir: string): Promise<World> {
  const backend = startChild('./edge-backend.ts')
  const load = startChild('./edge-load.ts')
  const [{ url: backendUrl }] = (await once(backend, 'message')) as [BackendReady]
  const secrets = await makeEdgeSecrets()
  const vars = edgeVars(secrets, backendUrl)
  const objects = { TENANT: 'Tenant', DIRECTORY: 'Directory', POOL: 'Pool' }
  const edgeDir = join(dir, 'edge')
  const edge = await startWorkerd({ script: await bundleEdge(), vars, objects, dir: edgeDir })
  const behindMiniflare = await startEdgeUnderTest({ backendUrl, secrets })
  const forward = await startProbe(backendUrl, join(dir, 'forward'))
  const peer = await startPeer(backendUrl)
  const tell = (command: BackendCommand): void => void backend.send(command)
  const recordKey = JSON.stringify(secrets.record)
  const { adminToken } = secrets
  const key = await makeBusyKey(edge.url, adminToken)
  const other = await makeBusyKey(behindMiniflare.url, adminToken)
  for (const [{ url }, { tenantId }] of [
    [edge, key],
    [behindMiniflare, other],
  ] as const) {
    tell({ kind: 'report', edgeUrl: url, tenantId, pool: EDGE_POOL, recordKey })
  }
  const plain = { headers: {}, warmUpSeconds: WARM_UP_SECONDS }
  const slow = { warmUpSeconds: LEASES_AFTER_SECONDS }
  return {
    hops: [
      { name: DIRECT, url: backendUrl, pid: null, ...plain },
      { name: FORWARD, url: `${forward.url}/pass`, pid: forward.pid, ...plain },
      { name: EDGE, url: edge.url, headers: bearer(key.key), pid: edge.pid, ...slow },
      { name: MINIFLARE, url: behindMiniflare.url, headers: bearer(other.key), pid: null, ...slow },
      ...(peer === null ? [] : [{ ...peer, name: PEER, warmUpSeconds: WARM_UP_SECONDS }]),
    ],
    edge: { url: edge.url, adminToken, keyPath: key.path },
    edgeLog: join(edgeDir, 'log.txt'),
    peerVersion: peer?.version ?? null,
    stream: (events, gapMs) => tell({ kind: 'stream', events, gapMs }),
    load: async (command, hop) => {
      load.send(loadCommand(command, hop))
      const [result] = (await once(load, 'message')) as [LoadResult]
      if (result.failed > 0) throw new Error(`${result.failed} requests failed at ${hop.name}`)
      return result
    },
    close: async () => {
      backend.disconnect()
      load.disconnect()
      const servers = [edge, behindMiniflare, forward, ...(peer === null ? [] : [peer])]
      await Promise.all(servers.map((server) => server.close()))
    },
  }
}

function startChild(path: string): ChildProcess {
  const url = new URL(path, import.meta.url)
  return fork(url, { stdio: 'inherit', serialization: 'advanced' })
}

function loadCommand(command: Partial<LoadCommand>, hop: Hop): LoadCommand {
  const messages = [{ role: 'user', content: 'Hello' }]
  return {
    url: `${hop.url}/v1/chat/completions`,
    headers: { authorization: 'Bearer none', 'content-type': 'application/json', ...hop.headers },
    body: JSON.stringify({ model: EDGE_MODEL, messages }),
    connections: 1,
    requestsMax: Number.MAX_SAFE_INTEGER,
    secondsMax: 60,
    ...command,
  }
}

function edgeVars(secrets: EdgeSecrets, backendUrl: string): Record<string, string> {
  const { d: _private, ...recordPublicKey } = secrets.record
  return {
    POOLS: JSON.stringify([
      { id: EDGE_POOL, url: backendUrl, models: [EDGE_MODEL], recordPublicKey },
    ]),
    EDGE_SIGNING_KEY: JSON.stringify(secrets.edge),
    ADMIN_TOKEN: secrets.adminToken,
  }
}

/** A key whose limits are all there and out of reach: what is measured is not what they refuse. */
async function makeBusyKey(
  url: string,
  adminToken: string,
): Promise<{ key: string; tenantId: string; path: string }> {
  const admin = async (method: string, path: string, body: object): Promise<unknown> => {
    const headers = { ...bearer(adminToken), 'content-type': 'application/json' }
    const init = { method, headers, body: JSON.stringify(body) }
    const response = await fetch(`${url}/admin/tenants${path}`, init)
    if (!response.ok) throw new Error(`${path} answered ${response.status}`)
    return response.json()
  }
  const { tenant_id: tenant } = (await admin('POST', '', { name: 'bench' })) as {
    readonly tenant_id: string
  }
  const dimensions = ['requests', 'inputTokens', 'uncachedInputTokens', 'outputTokens']
  const limits = [
    ...dimensions.map((dimension) => ({ dimension, per_minute: 1_000_000_000 })),
    { dimension: 'concurrency', max: 1_000_000 },
  ]
  await admin('PUT', `/${tenant}/limits`, { limits })
  await admin('PUT', `/${tenant}/billing`, { mode: 'postpaid', credit_usd: '900000' })
  const made = (await admin('POST', `/${tenant}/keys`, { name: 'bench' })) as {
    readonly key: string
    readonly key_id: string
  }
  const path = `/admin/tenants/${tenant}/keys/${made.key_id}`
  return { key: made.key, tenantId: tenant, path }
}

function bearer(key: string): { readonly authorization: string } {
  return { authorization: `Bearer ${key}` }
}
