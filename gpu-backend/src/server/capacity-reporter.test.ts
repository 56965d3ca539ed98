import { describe, expect, it } from 'vitest'
import type { CapacityReport } from '#protocol/capacity-report.ts'
import {
  CapacityReporter,
  type CapacityReporterOptions,
  type ReportSocket,
} from './capacity-reporter.ts'

const claims = { pool: 'a pool', backendId: 'b', incarnation: 'i' }

const report = (seq: number): CapacityReport => ({
  version: 1,
  ...claims,
  seq,
  atMs: 0,
  freeCacheTokens: 0,
  cacheTokensMax: 0,
  running: 0,
  waiting: 0,
  waitingTokens: 0,
  prefillTokensPerSecond: 0,
  decodeTokensPerSecond: 0,
  draining: false,
  models: [],
  progress: [],
})

/** A connection and a clock that move when the test says so. */
class World {
  readonly dialled: { url: string; token: string }[] = []
  readonly sent: number[] = []
  readonly cancelled: string[] = []
  readonly sleeps: number[] = []
  readonly logged: string[] = []
  bufferedAmount = 0
  refuse = false
  readonly stop = new AbortController()
  #wake: (() => void)[] = []
  #listener: (text: string) => void = () => undefined
  #end: () => void = () => undefined
  #seq = 0

  readonly reporter = new CapacityReporter({
    edgeUrl: 'https://edge.test/base/',
    claims,
    report: () => report((this.#seq += 1)),
    signToken: () => Promise.resolve(`token-${this.dialled.length + 1}`),
    dial: (url, token) => this.#dial(url, token),
    intervalMs: 250,
    onCancel: (requestId) => void this.cancelled.push(requestId),
    sleep: (ms, signal) => this.#sleep(ms, signal),
    random: () => 1,
    log: this.#log(),
  } satisfies CapacityReporterOptions)

  say(message: unknown): void {
    this.#listener(typeof message === 'string' ? message : JSON.stringify(message))
  }

  endConnection(): void {
    this.#end()
  }

  /** Lets whoever sleeps wake up, and everything that follows from it happen. */
  async pass(): Promise<void> {
    for (const wake of this.#wake.splice(0)) wake()
    await this.settle()
  }

  async settle(): Promise<void> {
    for (let i = 0; i < 20; i += 1) await Promise.resolve()
  }

  #log() {
    const note = (event: string): void => void this.logged.push(event)
    return { debug: note, info: note, warn: note, error: note }
  }

  #dial(url: string, token: string): Promise<ReportSocket> {
    this.dialled.push({ url, token })
    if (this.refuse) return Promise.reject(new Error('refused'))
    const closed = new Promise<void>((resolve) => {
      this.#end = resolve
    })
    const buffered = (): number => this.bufferedAmount
    return Promise.resolve({
      get bufferedAmount() {
        return buffered()
      },
      send: (text) => void this.sent.push((JSON.parse(text) as CapacityReport).seq),
      close: () => this.#end(),
      onMessage: (listener) => {
        this.#listener = listener
      },
      closed,
    })
  }

  #sleep(ms: number, signal: AbortSignal): Promise<void> {
    this.sleeps.push(ms)
    return new Promise((resolve) => {
      this.#wake.push(resolve)
      signal.addEventListener('abort', () => resolve(), { once: true })
    })
  }
}

describe('CapacityReporter', () => {
  it('reports at once, at every interval, and whenever it is told to', async () => {
    const world = new World()
    const running = world.reporter.run(world.stop.signal)
    await world.settle()
    expect(world.dialled).toEqual([
      { url: 'wss://edge.test/base/internal/pools/a%20pool/reports', token: 'token-1' },
    ])
    expect(world.sent).toEqual([1])
    await world.pass()
    expect(world.sent).toEqual([1, 2])
    world.reporter.reportNow()
    await world.settle()
    expect(world.sent).toEqual([1, 2, 3])
    world.stop.abort()
    await running
    expect(world.sent).toEqual([1, 2, 3])
  })

  it('dials again, later each time, until the edge takes a report', async () => {
    const world = new World()
    world.refuse = true
    void world.reporter.run(world.stop.signal)
    for (let i = 0; i < 9; i += 1) {
      await world.settle()
      await world.pass()
    }
    expect(world.sleeps.slice(0, 9)).toEqual([
      250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000,
    ])
    world.refuse = false
    await world.pass()
    world.say({ kind: 'ack', seq: 1 })
    world.endConnection()
    await world.settle()
    // A connection that was good starts the delays over.
    expect(world.sleeps.at(-1)).toBe(250)
    world.stop.abort()
  })

  it('gives up a connection whose far end does not read', async () => {
    const world = new World()
    void world.reporter.run(world.stop.signal)
    await world.settle()
    world.bufferedAmount = 2_000_000
    await world.pass()
    expect(world.sent).toEqual([1])
    expect(world.logged).toContain('capacity_reports_ended')
    world.bufferedAmount = 0
    await world.pass()
    expect(world.dialled.map(({ token }) => token)).toEqual(['token-1', 'token-2'])
    expect(world.sent).toEqual([1, 2])
    world.stop.abort()
  })

  it('cancels what the edge names, and passes over what it does not understand', async () => {
    const world = new World()
    void world.reporter.run(world.stop.signal)
    await world.settle()
    for (const noise of ['{', '[]', { kind: 'restart' }, { kind: 'cancel' }]) world.say(noise)
    world.say({ kind: 'cancel', requestId: 'req_1' })
    expect(world.cancelled).toEqual(['req_1'])
    world.stop.abort()
  })
})
