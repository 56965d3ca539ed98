import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { expect, it } from 'vitest'
import { freePort, probePort } from './ports.ts'

it('finds a port free, and taken while somebody listens on it', async () => {
  const port = await freePort()
  expect(await probePort(port)).toBe(port)

  const server = createServer()
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve))
  expect((server.address() as AddressInfo).port).toBe(port)
  expect(await probePort(port)).toBe(null)

  await new Promise((resolve) => server.close(resolve))
  expect(await probePort(port)).toBe(port)
})
