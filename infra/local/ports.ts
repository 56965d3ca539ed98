import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'

const LOOPBACK = '127.0.0.1'

/** Binds `port` on loopback for a moment (0 = any) and gives the number it got, or null if taken. */
export function probePort(port: number): Promise<number | null> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EADDRINUSE' || error.code === 'EACCES') resolve(null)
      else reject(error)
    })
    server.listen({ host: LOOPBACK, port, exclusive: true }, () => {
      // A listening TCP server's address is never a pipe name.
      const { port: bound } = server.address() as AddressInfo
      server.close(() => resolve(bound))
    })
  })
}

/** A port nobody listens on now. The caller binds it at once. */
export async function freePort(): Promise<number> {
  const port = await probePort(0)
  if (port === null) throw new Error('no free port on loopback')
  return port
}
