import { randomUUID } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import { join } from 'node:path'
import type { CryptoKey } from 'jose'
import {
  capacityReportSchema,
  reportsPath,
  verifyReportToken,
  type CapacityReport,
  type ReporterClaims,
} from '#protocol/capacity-report.ts'
import { generateKeyJwks, importPrivateKey, importPublicKey } from '#protocol/keys.ts'
import { GRANTED_OUTPUT_TOKENS_HEADER, REQUEST_ID_HEADER } from '#protocol/headers.ts'
import { signPoolToken, signServiceToken, type PoolScope } from '#protocol/service-token.ts'
import {
  usageRecordBatchSchema,
  verifyUsageRecord,
  type UsageRecord,
} from '#protocol/usage-record.ts'
import { publish } from '#weights/publish.ts'
import { openReleased } from '#weights/released.ts'
import { openDirectoryStore } from '#weights/store/directory.ts'
import { toyModelId, writeToy } from '#weights/toy/files.ts'
import { readAll, startFakeBackend } from './fake-backend.ts'
import { takeReports, type ReportConnection } from './report-socket.ts'

export const POOL = 'test-pool'

/** Both ends' keys: the edge's for service tokens, the backend's for usage records. */
export interface ServiceKeys {
  readonly edgePrivateKey: CryptoKey
  readonly recordPublicKey: CryptoKey
  readonly edgePublicJwk: string
  readonly recordPrivateJwk: string
}

export async function makeServiceKeys(): Promise<ServiceKeys> {
  const edge = await generateKeyJwks()
  const record = await generateKeyJwks()
  return {
    edgePrivateKey: await importPrivateKey(JSON.stringify(edge.privateJwk)),
    recordPublicKey: await importPublicKey(JSON.stringify(record.publicJwk)),
    edgePublicJwk: JSON.stringify(edge.publicJwk),
    recordPrivateJwk: JSON.stringify(record.privateJwk),
  }
}

/** The toy checkpoint, published in a folder under `directory`; gives the folder. */
export async function publishToy(directory: string): Promise<string> {
  const store = openDirectoryStore(join(directory, 'toy'))
  await writeToy(store)
  await publish(await openReleased(store), store, { modelId: toyModelId })
  return store.location
}

/** The environment a backend process needs, secrets included. */
export function backendEnv(options: {
  readonly keys: ServiceKeys
  readonly checkpoint: string
  readonly spoolDir: string
  readonly edgeUrl: string
  readonly changes?: Readonly<Record<string, string>>
}): Record<string, string> {
  return {
    SLUICE_CHECKPOINT: options.checkpoint,
    SLUICE_DEVICE: 'reference',
    SLUICE_POOL: POOL,
    SLUICE_BACKEND_ID: 'test-1',
    SLUICE_PORT: '0',
    SLUICE_EDGE_URL: options.edgeUrl,
    SLUICE_EDGE_PUBLIC_KEY: options.keys.edgePublicJwk,
    SLUICE_RECORD_PRIVATE_KEY: options.keys.recordPrivateJwk,
    SLUICE_SPOOL_DIR: options.spoolDir,
    ...options.changes,
  }
}

export interface FakeEdge {
  readonly url: string
  /** Every record it has taken, checked, in order of arrival. */
  readonly records: UsageRecord[]
  /** While false it answers 503. */
  accepting: boolean
  /** Every capacity report it has taken, in order of arrival. */
  readonly reports: CapacityReport[]
  /** Says something to whoever reported last. */
  sayToReporter(message: object): void
  close(): Promise<void>
}

/** The far end of the record push and of the capacity reports. */
export async function startFakeEdge(keys: ServiceKeys): Promise<FakeEdge> {
  const server = await startFakeBackend()
  let reporter: ReportConnection | null = null
  const edge: FakeEdge = {
    url: server.url,
    records: [],
    accepting: true,
    reports: [],
    sayToReporter: (message) => reporter?.say(message),
    close: () => {
      reports.close()
      return server.close()
    },
  }
  const reports = takeReports(server.server, {
    onConnect: async (request) => (await reporterOf(request, keys)) !== null,
    onText: (text, connection) => {
      const report = capacityReportSchema.parse(JSON.parse(text))
      edge.reports.push(report)
      reporter = connection
      connection.say({ kind: 'ack', seq: report.seq })
    },
  })
  server.handler = async (request, response) => {
    const body = await readAll(request)
    if (!edge.accepting || request.url !== '/internal/usage-records') {
      response.writeHead(503).end()
      return
    }
    const { records } = usageRecordBatchSchema.parse(JSON.parse(body.toString()))
    for (const jws of records) {
      const record = await verifyUsageRecord(jws, keys.recordPublicKey)
      if (record === null) throw new Error('a record that does not verify')
      edge.records.push(record)
    }
    const ack = { acknowledged: [...records.keys()], rejected: [] }
    response.setHeader('content-type', 'application/json')
    response.end(JSON.stringify(ack))
  }
  return edge
}

/** Who dials for reports, if they may. */
async function reporterOf(
  request: IncomingMessage,
  keys: ServiceKeys,
): Promise<ReporterClaims | null> {
  if (request.url !== reportsPath(POOL)) return null
  const token = request.headers.authorization?.replace('Bearer ', '') ?? ''
  return verifyReportToken(token, keys.recordPublicKey, { pool: POOL, nowMs: Date.now() })
}

export interface CallOptions {
  readonly requestId?: string
  readonly granted?: number | string
  readonly signal?: AbortSignal
  readonly method?: string
  /** Whose request it is; `tenant-1`'s unless given. */
  readonly tenantId?: string
  readonly headers?: Readonly<Record<string, string>>
}

export interface BackendCaller {
  /** Calls as the edge does, with a token of its own for each request. */
  call(path: string, body?: unknown, options?: CallOptions): Promise<Response>
  chat(body: object, options?: CallOptions): Promise<Response>
}

/** What the edge sends along with the request of this id. */
export async function serviceHeaders(
  keys: ServiceKeys,
  requestId: string,
  tenantId = 'tenant-1',
): Promise<Record<string, string>> {
  const claims = { pool: POOL, tenantId, keyId: 'key-1' }
  const token = await signServiceToken(claims, keys.edgePrivateKey, Date.now())
  return { authorization: `Bearer ${token}`, [REQUEST_ID_HEADER]: requestId }
}

/** What the edge sends along for the pool's own affairs. */
export async function poolHeaders(
  keys: ServiceKeys,
  scope: PoolScope,
): Promise<Record<string, string>> {
  const token = await signPoolToken({ pool: POOL, scope }, keys.edgePrivateKey, Date.now())
  return { authorization: `Bearer ${token}` }
}

export function callerOf(url: string, keys: ServiceKeys): BackendCaller {
  const call: BackendCaller['call'] = async (path, body, options = {}) => {
    const { requestId = `req_${randomUUID()}`, granted, signal } = options
    return fetch(`${url}${path}`, {
      method: options.method ?? (body === undefined ? 'GET' : 'POST'),
      headers: {
        ...(await serviceHeaders(keys, requestId, options.tenantId)),
        ...options.headers,
        ...(granted === undefined ? {} : { [GRANTED_OUTPUT_TOKENS_HEADER]: String(granted) }),
      },
      ...(body === undefined ? {} : { body: toBody(body) }),
      ...(signal === undefined ? {} : { signal }),
    })
  }
  return {
    call,
    chat: (body, options) => {
      const messages = [{ role: 'user', content: 'Hello' }]
      // Unseeded, the toy says its end token now and then, and a test something else each time.
      return call(
        '/v1/chat/completions',
        { model: toyModelId, messages, seed: 1, ...body },
        options,
      )
    },
  }
}

function toBody(body: unknown): string | Uint8Array<ArrayBuffer> {
  if (typeof body === 'string') return body
  return body instanceof Uint8Array ? new Uint8Array(body) : JSON.stringify(body)
}

/** The parts of a stream: comments, the JSON of each event, `[DONE]` as it is, and the ids. */
export function parseStream(text: string): {
  comments: string[]
  events: unknown[]
  ids: number[]
} {
  const blocks = text.split('\n\n').filter((block) => block !== '')
  const comments = blocks.filter((block) => block.startsWith(':'))
  const ids: number[] = []
  const events = blocks.flatMap((whole): unknown[] => {
    if (whole.startsWith(':')) return []
    const id = /^id: (\d+)\n/.exec(whole)
    if (id !== null) ids.push(Number(id[1]))
    const block = whole.slice(id?.[0].length ?? 0)
    if (!block.startsWith('data: ')) throw new Error(`neither comment nor data: ${block}`)
    const data = block.slice('data: '.length)
    return [data === '[DONE]' ? data : (JSON.parse(data) as unknown)]
  })
  return { comments, events, ids }
}
