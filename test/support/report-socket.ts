import { createHash } from 'node:crypto'
import type { IncomingMessage, Server } from 'node:http'
import type { Duplex } from 'node:stream'

/** One WebSocket of a backend that reports, as its far end sees it. */
export interface ReportConnection {
  readonly request: IncomingMessage
  say(message: object): void
  close(): void
}

interface ReportListener {
  /** Whether the connection is welcome; 401 if not. */
  onConnect(request: IncomingMessage): Promise<boolean>
  onText(text: string, connection: ReportConnection): void
}

const acceptSuffix = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'
const opText = 1
const opClose = 8

/**
 * The far end of capacity reports: just enough of RFC 6455 to take whole text messages and to answer
 * with short ones. Node brings a WebSocket client and no server. `close` ends every connection.
 */
export function takeReports(server: Server, listener: ReportListener): { close(): void } {
  const open = new Set<Duplex>()
  server.on('upgrade', (request: IncomingMessage, socket: Duplex) => {
    open.add(socket)
    socket.on('error', () => undefined)
    socket.on('end', () => socket.end())
    socket.on('close', () => open.delete(socket))
    void listener.onConnect(request).then((welcome) => {
      if (!welcome) {
        socket.end('HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n')
        return
      }
      accept(request, socket)
      readFrames(socket, (text) => listener.onText(text, connectionOf(request, socket)))
    })
  })
  // The server itself knows nothing of connections that have been upgraded.
  return { close: () => open.forEach((socket) => socket.destroy()) }
}

function accept(request: IncomingMessage, socket: Duplex): void {
  const key = request.headers['sec-websocket-key'] ?? ''
  const proof = createHash('sha1').update(`${key}${acceptSuffix}`).digest('base64')
  socket.write(
    'HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n' +
      `sec-websocket-accept: ${proof}\r\n\r\n`,
  )
}

function connectionOf(request: IncomingMessage, socket: Duplex): ReportConnection {
  return {
    request,
    say: (message) => socket.write(frame(JSON.stringify(message))),
    close: () => socket.destroy(),
  }
}

function frame(text: string): Buffer {
  const payload = Buffer.from(text)
  if (payload.length > 125) throw new Error('only short messages are needed here')
  return Buffer.concat([Buffer.of(0x80 | opText, payload.length), payload])
}

function readFrames(socket: Duplex, onText: (text: string) => void): void {
  let pending = Buffer.alloc(0)
  socket.on('data', (chunk: Buffer) => {
    pending = Buffer.concat([pending, chunk])
    for (let read = parseFrame(pending); read !== null; read = parseFrame(pending)) {
      pending = pending.subarray(read.sizeBytes)
      if (read.opcode === opText) onText(read.payload.toString())
      if (read.opcode === opClose) socket.end(Buffer.of(0x80 | opClose, 0))
    }
  })
}

interface Frame {
  readonly opcode: number
  readonly payload: Buffer
  readonly sizeBytes: number
}

/** A client's frame, masked as a client's must be; null until all of it is there. */
function parseFrame(bytes: Buffer): Frame | null {
  if (bytes.length < 2) return null
  const [first = 0, second = 0] = bytes
  const short = second & 0x7f
  const lengthBytes = short === 126 ? 2 : short === 127 ? 8 : 0
  const maskAt = 2 + lengthBytes
  if (bytes.length < maskAt + 4) return null
  const length =
    short === 126 ? bytes.readUInt16BE(2) : short === 127 ? Number(bytes.readBigUInt64BE(2)) : short
  const sizeBytes = maskAt + 4 + length
  if (bytes.length < sizeBytes) return null
  const payload = Buffer.from(bytes.subarray(maskAt + 4, sizeBytes))
  for (let i = 0; i < length; i += 1)
    payload[i] = (payload[i] ?? 0) ^ (bytes[maskAt + (i % 4)] ?? 0)
  return { opcode: first & 0x0f, payload, sizeBytes }
}
