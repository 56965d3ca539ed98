import { createExecutionContext, waitOnExecutionContext } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { generateKeyJwks } from '#protocol/keys.ts'
import type { PrivateJwk, PublicJwk } from '#protocol/keys.ts'
import { createApp } from '../../edge/src/app.ts'
import type { AppDeps } from '../../edge/src/context.ts'
import type { Env } from '../../edge/src/env.ts'

export const ADMIN_TOKEN = 'an-admin-token-of-forty-characters-or-so'
export const MODEL = 'deepseek-v4-toy'
export const POOL_URL = 'http://pool.test:9000'
/**
 * 2096-11-23, noon UTC: ahead of any real clock, so that no alarm of the objects comes by itself.
 */
export const NOON_MS = Date.UTC(2096, 10, 23, 12)

export interface KeyPair {
  readonly publicJwk: PublicJwk
  readonly privateJwk: PrivateJwk
}

interface BackendRequest {
  readonly url: string
  readonly init: RequestInit
}

export type FakeBackend = (request: BackendRequest) => Promise<Response>

/** An edge under test: its own clock, log and backend; the Durable Objects are the real ones. */
export interface TestEdge {
  readonly request: (path: string, init?: RequestInit) => Promise<Response>
  /** Resolves when the work started under `waitUntil` has ended. */
  readonly settled: () => Promise<void>
  readonly admin: (path: string, init?: RequestInit) => Promise<Response>
  readonly createTenant: () => Promise<string>
  readonly createKey: (tenantId: string) => Promise<{ key: string; keyId: string }>
  /** What the backend was asked, in order, but for the fates of requests. */
  readonly calls: BackendRequest[]
  /** What it says of a request whose record is missed. */
  fate: 'unknown' | 'under_way'
  readonly fatesAsked: string[]
  readonly logs: string[]
  readonly clock: { nowMs: number }
  /** What the Worker is bound to; settings are parsed again when it is changed. */
  bindings: Env
  readonly edgeKeys: KeyPair
  readonly recordKeys: KeyPair
  backend: FakeBackend
}

export interface TestEdgeOptions {
  readonly env?: Partial<Env>
  readonly deps?: Partial<AppDeps>
}

export async function makeEdge(options: TestEdgeOptions = {}): Promise<TestEdge> {
  const [edgeKeys, recordKeys] = await Promise.all([generateKeyJwks(), generateKeyJwks()])
  const bindings: Env = {
    TENANT: env.TENANT,
    DIRECTORY: env.DIRECTORY,
    POOL: env.POOL,
    POOLS: poolsOf(recordKeys.publicJwk),
    EDGE_SIGNING_KEY: JSON.stringify(edgeKeys.privateJwk),
    ADMIN_TOKEN,
    ...options.env,
  }
  const calls: BackendRequest[] = []
  const logs: string[] = []
  const clock = { nowMs: NOON_MS }
  const contexts: ExecutionContext[] = []
  const app = createApp({
    fetch: async (url, init) => {
      const missed = /\/v1\/records\/(.+)$/.exec(url)?.[1]
      if (missed !== undefined) {
        edge.fatesAsked.push(missed)
        return Response.json({ status: edge.fate })
      }
      calls.push({ url, init })
      return edge.backend({ url, init })
    },
    now: () => clock.nowMs,
    random: () => 0.5,
    randomBytes: (lengthBytes) => crypto.getRandomValues(new Uint8Array(lengthBytes)),
    log: (line) => logs.push(line),
    ...options.deps,
  })
  const request = async (path: string, init?: RequestInit): Promise<Response> => {
    const context = createExecutionContext()
    contexts.push(context)
    return app.request(`https://api.test${path}`, init, edge.bindings, context)
  }
  const admin = (path: string, init: RequestInit = {}): Promise<Response> =>
    request(`/admin${path}`, { ...init, headers: bearer(ADMIN_TOKEN) })
  const edge: TestEdge = {
    request,
    admin,
    settled: async () => {
      for (const context of contexts.splice(0)) await waitOnExecutionContext(context)
    },
    createTenant: async () => {
      const response = await admin('/tenants', { method: 'POST', body: '{"name":"Ada"}' })
      return (await response.json<{ tenant_id: string }>()).tenant_id
    },
    createKey: async (tenantId) => {
      const path = `/tenants/${tenantId}/keys`
      const response = await admin(path, { method: 'POST', body: '{"name":"laptop"}' })
      const body = await response.json<{ key: string; key_id: string }>()
      return { key: body.key, keyId: body.key_id }
    },
    backend: async () => new Response('no backend in this test', { status: 500 }),
    calls,
    fate: 'unknown',
    fatesAsked: [],
    logs,
    clock,
    bindings,
    edgeKeys,
    recordKeys,
  }
  return edge
}

export function poolsOf(recordPublicKey: PublicJwk): string {
  return JSON.stringify([{ id: 'pool-a', url: `${POOL_URL}/`, models: [MODEL], recordPublicKey }])
}

export function bearer(key: string): Record<string, string> {
  return { authorization: `Bearer ${key}` }
}

export function errorBody(error: {
  message: string
  type: string
  code: string
  param?: string
}): unknown {
  return { error: { param: null, ...error } }
}
