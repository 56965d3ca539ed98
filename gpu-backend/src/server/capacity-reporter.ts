import {
  reportReplySchema,
  reportsPath,
  type CapacityReport,
  type ReporterClaims,
  type ReportReply,
} from '#protocol/capacity-report.ts'
import { errorFields, type Log } from '../log.ts'
import { retryDelayMs } from '../retry-delay.ts'

/** What the reporter needs of a WebSocket that is open. */
export interface ReportSocket {
  /** Bytes written and not yet taken by the network. */
  readonly bufferedAmount: number
  send(text: string): void
  close(): void
  /** Called for each text message. */
  onMessage(listener: (text: string) => void): void
  /** Resolves when the connection has ended, whoever ended it. */
  readonly closed: Promise<void>
}

/** Resolves when the connection is open; rejects when there is none to be had. */
export type DialReports = (url: string, token: string, signal: AbortSignal) => Promise<ReportSocket>

export interface CapacityReporterOptions {
  /** Base URL of the edge. */
  readonly edgeUrl: string
  readonly claims: ReporterClaims
  readonly report: () => CapacityReport
  /** A token for one connection. */
  readonly signToken: () => Promise<string>
  readonly dial: DialReports
  readonly intervalMs: number
  /** The edge wants this request's generation to end. */
  readonly onCancel: (requestId: string) => void
  /** Resolves after `ms`, or at once when the signal aborts. */
  readonly sleep: (ms: number, signal: AbortSignal) => Promise<void>
  readonly random: () => number
  readonly log: Log
}

/** With this much unsent the far end has stopped reading, and reports would only grow old. */
const bufferedMax = 1_048_576
/** A connection that has carried so many is a good one, even if nobody acknowledges. */
const provenReports = 20

/** Keeps a WebSocket to the edge open and tells it several times a second what this backend can take. */
export class CapacityReporter {
  readonly #options: CapacityReporterOptions
  readonly #url: string
  #wake: (() => void) | null = null

  constructor(options: CapacityReporterOptions) {
    this.#options = options
    const base = options.edgeUrl.replace(/\/+$/, '').replace(/^http/, 'ws')
    this.#url = `${base}${reportsPath(options.claims.pool)}`
  }

  /** Sends a report at once instead of at the end of the interval. */
  reportNow(): void {
    this.#wake?.()
  }

  /** Reports for ever; returns when the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    const { sleep, random } = this.#options
    let failures = 0
    while (!signal.aborted) {
      const taken = await this.#connection(signal)
      if (signal.aborted) return
      if (taken) failures = 0
      await sleep(retryDelayMs(failures, random), signal)
      failures += 1
    }
  }

  /** One connection from its beginning to its end; whether the edge took reports on it. */
  async #connection(signal: AbortSignal): Promise<boolean> {
    const { dial, signToken, log } = this.#options
    let taken = false
    try {
      const socket = await dial(this.#url, await signToken(), signal)
      log.info('capacity_reports_begin')
      socket.onMessage((text) => {
        if (this.#obey(text)) taken = true
      })
      const sent = await this.#reportUntilClosed(socket, signal)
      taken ||= sent >= provenReports
      if (!signal.aborted) log.warn('capacity_reports_ended')
    } catch (error) {
      if (!signal.aborted) log.debug('capacity_reports_not_taken', errorFields(error))
    }
    return taken
  }

  /** How many reports went out. */
  async #reportUntilClosed(socket: ReportSocket, signal: AbortSignal): Promise<number> {
    const { report, intervalMs, sleep } = this.#options
    let sent = 0
    const over = new AbortController()
    const stop = (): void => over.abort()
    signal.addEventListener('abort', stop, { once: true })
    void socket.closed.then(stop)
    while (!over.signal.aborted && !signal.aborted && socket.bufferedAmount <= bufferedMax) {
      socket.send(JSON.stringify(report()))
      sent += 1
      const woken = new Promise<void>((resolve) => {
        this.#wake = resolve
      })
      const pause = new AbortController()
      const either = AbortSignal.any([over.signal, pause.signal])
      await Promise.race([woken, sleep(intervalMs, either)])
      pause.abort()
    }
    this.#wake = null
    signal.removeEventListener('abort', stop)
    socket.close()
    return sent
  }

  /** Whether the message says that a report was taken. */
  #obey(text: string): boolean {
    const reply = parseReply(text)
    // A kind from a later edge, or noise: nothing that a report depends on.
    if (reply === null) return false
    switch (reply.kind) {
      case 'ack':
        return true
      case 'cancel':
        this.#options.onCancel(reply.requestId)
        return false
    }
  }
}

function parseReply(text: string): ReportReply | null {
  try {
    return reportReplySchema.parse(JSON.parse(text))
  } catch {
    return null
  }
}

/** Dials with Node's own WebSocket, whose `headers` option carries the token. */
export const dialWebSocket: DialReports = (url, token, signal) => {
  const socket = new WebSocket(url, { headers: { authorization: `Bearer ${token}` } })
  const closed = new Promise<void>((resolve) => {
    socket.addEventListener('close', () => resolve(), { once: true })
  })
  const opened = new Promise<ReportSocket>((resolve, reject) => {
    const listening: ((text: string) => void)[] = []
    socket.addEventListener('message', ({ data }) => {
      if (typeof data === 'string') for (const listener of listening) listener(data)
    })
    socket.addEventListener('error', () => reject(new Error('the edge takes no reports here')))
    socket.addEventListener('open', () => {
      resolve({
        get bufferedAmount() {
          return socket.bufferedAmount
        },
        send: (text) => socket.send(text),
        close: () => socket.close(1000),
        onMessage: (listener) => void listening.push(listener),
        closed,
      })
    })
  })
  const giveUp = (): void => socket.close()
  signal.addEventListener('abort', giveUp, { once: true })
  void closed.then(() => signal.removeEventListener('abort', giveUp))
  return Promise.race([
    opened,
    closed.then(() => {
      throw new Error('the edge closed the connection')
    }),
  ])
}
