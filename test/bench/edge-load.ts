import { connect } from 'node:net'
import type { Socket } from 'node:net'

/**
 * A load that is not itself the bottleneck, as a process of its own: `fork` it and send a
 * `LoadCommand`; it answers with a `LoadResult`. Requests are bytes made once, answers are read only
 * as far as finding their end takes, and each connection sends its next when the last has ended.
 */
export interface LoadCommand {
  readonly url: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
  readonly connections: number
  /** Whichever comes first ends it. */
  readonly requestsMax: number
  readonly secondsMax: number
}

export interface LoadResult {
  readonly seconds: number
  /** Of every answer, from the request's first byte to the answer's last; in no order. */
  readonly latenciesMs: readonly number[]
  /** Of every stream, from the first event's writing to its arrival. */
  readonly firstChunkMs: readonly number[]
  readonly failed: number
}

interface Run {
  readonly bytes: Buffer
  readonly untilMs: number
  left: number
  readonly latenciesMs: number[]
  readonly firstChunkMs: number[]
  failed: number
}

const HEAD_END = Buffer.from('\r\n\r\n')
const CHUNKS_END = Buffer.from('\r\n0\r\n\r\n')
const OK = Buffer.from('HTTP/1.1 200')

async function run(command: LoadCommand): Promise<LoadResult> {
  const startedAtMs = performance.now()
  const state: Run = {
    bytes: requestBytes(command),
    untilMs: startedAtMs + command.secondsMax * 1000,
    left: command.requestsMax,
    latenciesMs: [],
    firstChunkMs: [],
    failed: 0,
  }
  const { hostname, port } = new URL(command.url)
  await Promise.all(
    Array.from({ length: command.connections }, () =>
      drive(connect({ host: hostname, port: Number(port), noDelay: true }), state),
    ),
  )
  const { latenciesMs, firstChunkMs, failed } = state
  return { seconds: (performance.now() - startedAtMs) / 1000, latenciesMs, firstChunkMs, failed }
}

function requestBytes({ url, headers, body }: LoadCommand): Buffer {
  const { host, pathname } = new URL(url)
  const lines = [
    `POST ${pathname} HTTP/1.1`,
    `host: ${host}`,
    ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`),
    `content-length: ${Buffer.byteLength(body)}`,
  ]
  return Buffer.from(`${lines.join('\r\n')}\r\n\r\n${body}`)
}

/** One connection's requests, one after the other. */
function drive(socket: Socket, state: Run): Promise<void> {
  return new Promise((over, failed) => {
    let sentAtMs = 0
    let answer: Buffer = Buffer.alloc(0)
    let firstSeen = false
    const next = (): void => {
      if (state.left <= 0 || performance.now() >= state.untilMs) {
        socket.destroy()
        over()
        return
      }
      state.left -= 1
      answer = Buffer.alloc(0)
      firstSeen = false
      sentAtMs = performance.now()
      socket.write(state.bytes)
    }
    socket.on('connect', next)
    socket.on('error', failed)
    socket.on('close', over)
    socket.on('data', (chunk: Buffer) => {
      const arrivedAt = process.hrtime.bigint()
      answer = answer.byteLength === 0 ? chunk : Buffer.concat([answer, chunk])
      if (!firstSeen) {
        const writtenAt = /"at":(\d+)/.exec(answer.toString('latin1'))?.[1]
        if (writtenAt !== undefined) {
          firstSeen = true
          state.firstChunkMs.push(Number(arrivedAt - BigInt(writtenAt)) / 1e6)
        }
      }
      if (!isWhole(answer)) {
        // Of a long stream only the end is looked for.
        if (firstSeen && answer.byteLength > 4096) {
          const head = answer.subarray(0, answer.indexOf(HEAD_END) + HEAD_END.byteLength)
          answer = Buffer.concat([head, answer.subarray(-CHUNKS_END.byteLength)])
        }
        return
      }
      if (answer.subarray(0, OK.byteLength).equals(OK)) {
        state.latenciesMs.push(performance.now() - sentAtMs)
      } else state.failed += 1
      next()
    })
  })
}

/** Whether the answer has ended: by its announced length, or by the empty chunk. */
function isWhole(answer: Buffer): boolean {
  const headEnd = answer.indexOf(HEAD_END)
  if (headEnd < 0) return false
  const head = answer.toString('latin1', 0, headEnd).toLowerCase()
  const length = /\r\ncontent-length: *(\d+)/.exec(head)?.[1]
  if (length !== undefined) {
    return answer.byteLength >= headEnd + HEAD_END.byteLength + Number(length)
  }
  return answer.subarray(-CHUNKS_END.byteLength).equals(CHUNKS_END)
}

process.on('message', (command: LoadCommand) => {
  void run(command).then((result) => process.send?.(result))
})
process.on('disconnect', () => process.exit())
