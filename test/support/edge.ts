import { generateKeyJwks } from '#protocol/keys.ts'
import type { PrivateJwk } from '#protocol/keys.ts'
import { startEdge } from '../../infra/local/edge.ts'

export const EDGE_MODEL = 'deepseek-v4-toy'
export const EDGE_POOL = 'pool-a'

export interface EdgeSecrets {
  readonly edge: PrivateJwk
  readonly record: PrivateJwk
  readonly adminToken: string
}

export interface EdgeUnderTest {
  readonly url: string
  readonly logs: string[]
  admin(path: string, body?: object): Promise<Record<string, unknown>>
  close(): Promise<void>
}

export interface EdgeUnderTestOptions {
  readonly backendUrl: string
  readonly secrets: EdgeSecrets
  readonly stateDir?: string
  readonly vars?: Readonly<Record<string, string>>
}

export async function makeEdgeSecrets(): Promise<EdgeSecrets> {
  const [edge, record] = await Promise.all([generateKeyJwks(), generateKeyJwks()])
  return {
    edge: edge.privateJwk,
    record: record.privateJwk,
    adminToken: 'an-admin-token-of-forty-characters-or-so',
  }
}

/** The real edge in workerd, in front of one pool at `backendUrl`. */
export async function startEdgeUnderTest(options: EdgeUnderTestOptions): Promise<EdgeUnderTest> {
  const { secrets, backendUrl } = options
  const { d: _private, ...recordPublicKey } = secrets.record
  const pools = [{ id: EDGE_POOL, url: backendUrl, models: [EDGE_MODEL], recordPublicKey }]
  const logs: string[] = []
  const edge = await startEdge({
    port: 0,
    stateDir: options.stateDir ?? null,
    onLog: (line) => logs.push(line),
    vars: {
      POOLS: JSON.stringify(pools),
      EDGE_SIGNING_KEY: JSON.stringify(secrets.edge),
      ADMIN_TOKEN: secrets.adminToken,
      ...options.vars,
    },
  })
  return {
    url: edge.url,
    logs,
    admin: async (path, body) => {
      const response = await fetch(`${edge.url}/admin${path}`, {
        headers: { authorization: `Bearer ${secrets.adminToken}` },
        ...(body === undefined ? {} : { method: 'POST', body: JSON.stringify(body) }),
      })
      if (!response.ok) throw new Error(`${path} answered ${response.status}`)
      return (await response.json()) as Record<string, unknown>
    },
    close: () => edge.close(),
  }
}

/** A fresh tenant's first key. */
export async function createEdgeKey(
  edge: EdgeUnderTest,
): Promise<{ key: string; keyId: string; tenantId: string }> {
  const tenantId = String((await edge.admin('/tenants', { name: 'test' }))['tenant_id'])
  const created = await edge.admin(`/tenants/${tenantId}/keys`, { name: 'test' })
  return { key: String(created['key']), keyId: String(created['key_id']), tenantId }
}
