import { connect, createServer } from 'node:net'
import type { Socket } from 'node:net'

/** The road from the edge to a backend. */
export interface CrashLink {
  readonly url: string
  /** Called as the edge asks what has become of a request, before the backend hears of it. */
  onLookup: () => void
  /** Breaks every connection, wherever its bytes are. */
  cut(): void
  close(): Promise<void>
}

const LOOKUP = 'GET /v1/records/'

/** Passes connections on to `backendPort` byte for byte; one end that goes takes the other along. */
export async function startCrashLink(backendPort: number): Promise<CrashLink> {
  const open = new Set<Socket>()
  const server = createServer((near) => {
    const far = connect(backendPort, '127.0.0.1')
    open.add(near)
    near.on('data', (bytes) => {
      if (bytes.includes(LOOKUP)) link.onLookup()
    })
    near.pipe(far).pipe(near)
    for (const [socket, other] of [
      [near, far],
      [far, near],
    ] as const) {
      socket.on('error', () => undefined)
      socket.on('close', () => {
        other.destroy()
        open.delete(near)
      })
    }
  })
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening))
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('no TCP address')
  const link: CrashLink = {
    url: `http://127.0.0.1:${address.port}`,
    onLookup: () => undefined,
    cut: () => open.forEach((socket) => socket.destroy()),
    close: () =>
      new Promise((closed) => {
        server.close(() => closed())
        link.cut()
      }),
  }
  return link
}
