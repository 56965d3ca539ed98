import { createServer } from 'node:http'
import type { IncomingMessage, RequestListener, Server, ServerResponse } from 'node:http'

export interface FakeBackend {
  readonly url: string
  readonly server: Server
  /** What answers the next requests; a test sets its own. */
  handler: RequestListener
  close(): Promise<void>
}

/** A plain HTTP server on loopback in a backend's place, free to break in any way. */
export async function startFakeBackend(): Promise<FakeBackend> {
  const server = createServer((request, response) => backend.handler(request, response))
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening))
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('no TCP address')
  const backend: FakeBackend = {
    url: `http://127.0.0.1:${address.port}`,
    server,
    handler: (_request, response) => void response.writeHead(500).end(),
    close: () =>
      new Promise((closed) => {
        server.close(() => closed())
        server.closeAllConnections()
      }),
  }
  return backend
}

export function openEventStream(response: ServerResponse): void {
  response.writeHead(200, { 'content-type': 'text/event-stream' })
}

export async function readAll(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}

/** Resolves when the answer's connection is gone, however it went. */
export function closed(response: ServerResponse): Promise<void> {
  return new Promise((gone) => response.once('close', gone))
}
