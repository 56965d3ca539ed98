import { createServer, type RequestListener, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, describe, expect, it } from 'vitest'
import { openS3Store } from '#weights/store/s3.ts'
import { defaultRetryPolicy, withRetry } from '#weights/store/retry.ts'
import type { Store } from '#weights/store/store.ts'

let server: Server | null = null

afterEach(async () => {
  const running = server
  if (running === null) return
  running.closeAllConnections()
  await new Promise((resolve) => running.close(resolve))
  server = null
})

/** A store whose server answers as the test says. */
async function storeThat(answers: RequestListener): Promise<Store> {
  const listening = createServer(answers)
  server = listening
  await new Promise<void>((resolve) => listening.listen(0, '127.0.0.1', resolve))
  const { port } = listening.address() as AddressInfo
  return openS3Store({
    bucket: 'models',
    prefix: '',
    endpoint: `http://127.0.0.1:${port}`,
    region: 'auto',
    forcePathStyle: true,
    credentials: { accessKeyId: 'a', secretAccessKey: 'b' },
    idleMsMax: 200,
  })
}

const range = { offset: 100, length: 50 }

function partial(response: ServerResponse, contentRange: string, length: number): ServerResponse {
  const headers = { 'content-range': contentRange, 'content-length': length }
  return response.writeHead(206, headers)
}

describe('an S3 server that', () => {
  it('sends the range asked for is believed', async () => {
    const asked: unknown[] = []
    const store = await storeThat((request, response) => {
      asked.push(request.url, request.headers.range)
      partial(response, 'bytes 100-149/1000', 50).end(Buffer.alloc(50, 7))
    })
    expect(await store.getRange('a/b', range)).toEqual(new Uint8Array(50).fill(7))
    expect(asked).toEqual(['/models/a/b?x-id=GetObject', 'bytes=100-149'])
  })

  it.each<[string, RequestListener]>([
    ['ignores the range', (_, response) => void response.writeHead(200).end(Buffer.alloc(1000))],
    [
      'sends another range',
      (_, response) => void partial(response, 'bytes 0-49/1000', 50).end(Buffer.alloc(50)),
    ],
    [
      'sends a shorter range',
      (_, response) => void partial(response, 'bytes 100-119/120', 20).end(Buffer.alloc(20)),
    ],
    ['has no such range', (_, response) => void response.writeHead(416).end()],
  ])('%s is refused', async (_, answer) => {
    const store = await storeThat(answer)
    await expect(store.getRange('a', range)).rejects.toMatchObject({
      name: 'StoreError',
      code: 'range_not_satisfiable',
      key: 'a',
    })
  })

  it.each<[string, RequestListener, string]>([
    [
      'sends fewer bytes than it announced in the range',
      (_, response) => void partial(response, 'bytes 100-149/1000', 20).end(Buffer.alloc(20)),
      'short_read',
    ],
    [
      'sends more',
      (_, response) => void partial(response, 'bytes 100-149/1000', 60).end(Buffer.alloc(60)),
      'short_read',
    ],
    [
      'hangs up half-way',
      (_, response) => {
        partial(response, 'bytes 100-149/1000', 50).write(Buffer.alloc(20))
        setTimeout(() => response.destroy(), 20)
      },
      'unavailable',
    ],
    [
      'falls silent half-way',
      (_, response) => void partial(response, 'bytes 100-149/1000', 50).write(Buffer.alloc(20)),
      'unavailable',
    ],
    ['never answers', () => {}, 'unavailable'],
    ['hangs up at once', (request) => void request.socket.destroy(), 'unavailable'],
    ['is overloaded', (_, response) => void response.writeHead(503).end(), 'unavailable'],
  ])('%s may be asked again', async (_, answer, code) => {
    const store = await storeThat(answer)
    await expect(store.getRange('a', range)).rejects.toMatchObject({ code, transient: true })
  })

  it('recovers is waited for', async () => {
    let requests = 0
    const store = await storeThat((_, response) => {
      if (++requests < 3) response.writeHead(503).end()
      else partial(response, 'bytes 100-149/1000', 50).end(Buffer.alloc(50, 9))
    })
    const waits: number[] = []
    const sleep = async (delayMs: number): Promise<void> => void waits.push(delayMs)
    const retrying = withRetry(store, { ...defaultRetryPolicy, random: () => 0.5, sleep })
    expect(await retrying.getRange('a', range)).toEqual(new Uint8Array(50).fill(9))
    expect([requests, waits]).toEqual([3, [100, 200]])
  })

  it('is slow can be left in the middle', async () => {
    const abort = new AbortController()
    const store = await storeThat((_, response) => {
      partial(response, 'bytes 100-149/1000', 50).write(Buffer.alloc(20))
      setTimeout(() => abort.abort(), 20)
    })
    const read = withRetry(store).getRange('a', range, { signal: abort.signal })
    await expect(read).rejects.toMatchObject({ code: 'aborted' })
  })
})
