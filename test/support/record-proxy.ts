import { createServer, request as httpRequest } from 'node:http'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { connect } from 'node:net'
import type { Duplex } from 'node:stream'
import { usageRecordBatchSchema, usageRecordSchema } from '#protocol/usage-record.ts'
import type { UsageRecord } from '#protocol/usage-record.ts'
import { readAll } from './fake-backend.ts'

export interface RecordProxy {
  readonly url: string
  /** Every record that a backend has pushed, by request id. */
  readonly records: ReadonlyMap<string, UsageRecord>
  readonly counts: { passed: number; doubled: number; dropped: number; ackLost: number }
  /** While true, batches are dropped, sent twice, or have their acknowledgement lost. */
  unreliable: boolean
  close(): Promise<void>
}

/** Stands between a backend and the edge at `edgePort`, and loses what passes in every way. */
export async function startRecordProxy(
  edgePort: number,
  random: () => number,
): Promise<RecordProxy> {
  const records = new Map<string, UsageRecord>()
  const counts = { passed: 0, doubled: 0, dropped: 0, ackLost: 0 }
  const server = createServer((request, response) => {
    // A push that fails is the backend's to repeat.
    relay(request, response).catch(() => void response.destroy())
  })
  const tunnels = new Set<Duplex>()
  server.on('upgrade', (request, socket, head) => {
    tunnels.add(socket)
    socket.once('close', () => tunnels.delete(socket))
    tunnel(request, socket, head, edgePort)
  })
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening))
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('no TCP address')
  const proxy: RecordProxy = {
    url: `http://127.0.0.1:${address.port}`,
    records,
    counts,
    unreliable: false,
    close: () =>
      new Promise((closed) => {
        server.close(() => closed())
        server.closeAllConnections()
        // Upgraded connections are the server's no more, and yet it waits for them.
        for (const socket of tunnels) socket.destroy()
      }),
  }
  return proxy

  async function relay(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const body = await readAll(request)
    for (const record of parseBatch(body)) records.set(record.requestId, record)
    const chance = proxy.unreliable ? random() : 1
    if (chance < 0.15) {
      counts.dropped += 1
      response.writeHead(503).end()
      return
    }
    const path = request.url ?? '/'
    if (chance < 0.3) {
      counts.doubled += 1
      await forward(path, body)
    }
    const answer = await forward(path, body)
    if (chance >= 0.3 && chance < 0.45) {
      counts.ackLost += 1
      response.destroy()
      return
    }
    counts.passed += 1
    response.writeHead(answer.status, { 'content-type': 'application/json' }).end(answer.body)
  }

  function forward(path: string, body: Buffer): Promise<{ status: number; body: Buffer }> {
    return new Promise((resolve, reject) => {
      const options = { port: edgePort, host: '127.0.0.1', path, method: 'POST' }
      const onward = httpRequest(options, (answer) => {
        readAll(answer).then((bytes) => {
          resolve({ status: answer.statusCode ?? 502, body: bytes })
        }, reject)
      })
      onward.on('error', reject)
      onward.end(body)
    })
  }
}

function tunnel(request: IncomingMessage, socket: Duplex, head: Buffer, port: number): void {
  const onward = connect(port, '127.0.0.1', () => {
    const lines = request.rawHeaders.flatMap((name, index, all) =>
      index % 2 === 0 ? [`${name}: ${all[index + 1] ?? ''}`] : [],
    )
    onward.write(`GET ${request.url} HTTP/1.1\r\n${lines.join('\r\n')}\r\n\r\n`)
    onward.write(head)
    socket.pipe(onward).pipe(socket)
  })
  onward.on('error', () => void socket.destroy())
  socket.on('error', () => void onward.destroy())
}

/** The payloads as they are: whether the signatures hold is the edge's to check. */
function parseBatch(body: Buffer): UsageRecord[] {
  return usageRecordBatchSchema.parse(JSON.parse(body.toString())).records.map((jws) => {
    const payload = Buffer.from(jws.split('.')[1] ?? '', 'base64url').toString()
    return usageRecordSchema.parse(JSON.parse(payload))
  })
}
