import { spawn } from 'node:child_process'
import { appendFile, mkdtemp, open, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { Log, LogFields } from '../log.ts'
import { RecordSpool, type SpoolFile } from './spool.ts'

let directory: string
let logged: [string, LogFields][]
let log: Log

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sluice-spool-'))
  logged = []
  const note = (event: string, fields: LogFields = {}): void => void logged.push([event, fields])
  log = { debug: note, info: note, warn: note, error: note }
})

afterEach(() => rm(directory, { recursive: true }))

const path = (): string => join(directory, 'records.jsonl')
const rejectedPath = (): string => join(directory, 'rejected.jsonl')
const openSpool = (): Promise<RecordSpool> =>
  RecordSpool.open(directory, { log, randomId: () => 'spool' })
const name = { spool: 'spool', nextSeq: 1 }
const record = (id: number) => ({ requestId: `req_${id}`, jws: `h.p${id}.s` })
const ids = (spool: RecordSpool): string[] => spool.pending(1000).map(({ requestId }) => requestId)

async function lines(file: string): Promise<unknown[]> {
  const text = await readFile(file, 'utf8')
  expect(text.endsWith('\n')).toBe(true)
  return text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as unknown)
}

describe('RecordSpool', () => {
  it('has a record in the file once append resolves, and oldest first', async () => {
    const spool = await openSpool()
    for (const id of [1, 2, 3]) await spool.append(record(id))
    expect(await lines(path())).toEqual([
      name,
      { seq: 1, ...record(1) },
      { seq: 2, ...record(2) },
      { seq: 3, ...record(3) },
    ])
    expect(spool.pending(2)).toMatchObject([{ seq: 1 }, { seq: 2 }])
    await spool.close()
  })

  it('syncs many waiting records together', async () => {
    let syncs = 0
    const spool = await RecordSpool.open(directory, {
      log,
      openFile: async (file) => {
        const handle = await open(file, 'a')
        return {
          appendFile: (text) => handle.appendFile(text),
          truncate: (size) => handle.truncate(size),
          close: () => handle.close(),
          datasync: async () => {
            syncs += 1
            await handle.datasync()
          },
        }
      },
    })
    syncs = 0
    await Promise.all(Array.from({ length: 100 }, (_, id) => spool.append(record(id))))
    expect(spool.pendingCount).toBe(100)
    expect(syncs).toBeLessThanOrEqual(2)
    await spool.close()
  })

  it('keeps across a restart what was not acknowledged, and goes on counting', async () => {
    const before = await openSpool()
    for (const id of [1, 2, 3]) await before.append(record(id))
    await before.acknowledge(before.pending(3).filter(({ seq }) => seq !== 2))
    await before.close()
    const after = await openSpool()
    expect(after.pendingRequestIds()).toEqual(['req_2'])
    await after.append(record(4))
    expect(after.pending(9).map(({ seq }) => seq)).toEqual([2, 4])
    await after.close()
  })

  it('cuts off the half line of a crash and appends behind the whole ones', async () => {
    const before = await openSpool()
    await before.append(record(1))
    await before.close()
    await appendFile(path(), '{"seq":2,"requestId":"req_2","jw')
    const after = await openSpool()
    expect(ids(after)).toEqual(['req_1'])
    await after.append(record(3))
    await after.close()
    expect(await lines(path())).toEqual([name, { seq: 1, ...record(1) }, { seq: 2, ...record(3) }])
    expect(logged).toEqual([['usage_record_torn', { bytes: 32 }]])
  })

  it('sets an unreadable line aside once and keeps the others', async () => {
    const whole = (seq: number): string => `${JSON.stringify({ seq, ...record(seq) })}\n`
    await writeFile(path(), `${whole(1)}\0\0\0\n${whole(3)}`)
    for (const _ of [1, 2]) {
      const spool = await openSpool()
      expect(ids(spool)).toEqual(['req_1', 'req_3'])
      await spool.close()
    }
    expect(await lines(rejectedPath())).toEqual([{ reason: 'unreadable line', line: '\0\0\0' }])
    expect(logged).toEqual([['usage_record_unreadable', { bytes: 3 }]])
  })

  it('keeps every record it had promised when the process is killed', async () => {
    const script = `
      import { RecordSpool } from ${JSON.stringify(import.meta.resolve('./spool.ts'))}
      const quiet = () => {}
      const log = { debug: quiet, info: quiet, warn: quiet, error: quiet }
      const spool = await RecordSpool.open(${JSON.stringify(directory)}, { log })
      for (let id = 0; ; id++) {
        await spool.append({ requestId: 'req_' + id, jws: 'x'.repeat(300) })
        process.stdout.write(id + '\\n')
      }`
    const child = spawn(process.execPath, ['--input-type=module', '-e', script])
    let output = ''
    child.stdout.on('data', (chunk: Buffer) => {
      output += chunk.toString()
      if (output.split('\n').length > 20) child.kill('SIGKILL')
    })
    await new Promise((resolve) => child.on('close', resolve))
    const promised = output.split('\n').slice(0, -1)
    expect(promised.length).toBeGreaterThanOrEqual(20)
    const spool = await openSpool()
    expect(ids(spool).slice(0, promised.length)).toEqual(promised.map((id) => `req_${id}`))
    await spool.close()
  })

  it('writes rejected records down with their reason and stops sending them', async () => {
    const spool = await openSpool()
    for (const id of [1, 2]) await spool.append(record(id))
    const [first] = spool.pending(1)
    if (first === undefined) throw new Error('one is pending')
    await spool.reject([{ record: first, reason: 'unknown key' }])
    expect(ids(spool)).toEqual(['req_2'])
    expect(await lines(rejectedPath())).toEqual([{ reason: 'unknown key', ...record(1) }])
    expect(logged).toEqual([
      ['usage_record_rejected', { request_id: 'req_1', reason: 'unknown key' }],
    ])
    await spool.close()
  })

  it('shrinks the file when most of it is acknowledged, and loses nothing by it', async () => {
    const spool = await openSpool()
    const big = (id: number) => ({ requestId: `req_${id}`, jws: 'x'.repeat(100_000) })
    await Promise.all(Array.from({ length: 13 }, (_, id) => spool.append(big(id))))
    await spool.acknowledge(spool.pending(12))
    expect((await stat(path())).size).toBeLessThan(101_000)
    await spool.append(record(99))
    await spool.close()
    const after = await openSpool()
    expect(ids(after)).toEqual(['req_12', 'req_99'])
    await after.close()
  })

  it('promises nothing when the disk refuses, and recovers when it does not', async () => {
    const faults = new Set<string>()
    const failing = async (file: string): Promise<SpoolFile> => {
      const handle = await open(file, 'a')
      return {
        appendFile: async (text) => {
          // A full disk takes part of the line.
          await handle.appendFile(faults.has('write') ? text.slice(0, 9) : text)
          if (faults.has('write')) throw new Error('ENOSPC')
        },
        datasync: async () => {
          if (faults.has('sync')) throw new Error('EIO')
          await handle.datasync()
        },
        truncate: (size) => handle.truncate(size),
        close: () => handle.close(),
      }
    }
    const spool = await RecordSpool.open(directory, { log, openFile: failing })
    await spool.append(record(1))
    for (const [fault, message] of [
      ['write', 'ENOSPC'],
      ['sync', 'EIO'],
    ] as const) {
      faults.add(fault)
      await expect(spool.append(record(2))).rejects.toThrow(message)
      faults.clear()
    }
    await spool.append(record(3))
    expect(ids(spool)).toEqual(['req_1', 'req_3'])
    await spool.close()
    expect((await lines(path())).slice(1)).toMatchObject([
      { requestId: 'req_1' },
      { requestId: 'req_3' },
    ])
  })

  it('never gives a number twice, even when all before was acknowledged and cleared away', async () => {
    const before = await openSpool()
    const big = (id: number) => ({ requestId: `req_${id}`, jws: 'x'.repeat(600_000) })
    for (const id of [1, 2, 3]) await before.append(big(id))
    await before.acknowledge(before.pending(3))
    expect(await lines(path())).toEqual([{ spool: 'spool', nextSeq: 4 }])
    await before.close()
    const after = await RecordSpool.open(directory, { log, randomId: () => 'another' })
    await after.append(record(4))
    expect([after.id, after.pending(9).map(({ seq }) => seq)]).toEqual(['spool', [4]])
    await after.close()
  })

  it('names a spool that has none, and goes on behind what it holds', async () => {
    await writeFile(path(), `${JSON.stringify({ seq: 7, ...record(7) })}\n`)
    const spool = await openSpool()
    expect(spool.pendingAfter(0, 9)).toMatchObject([{ seq: 7 }])
    expect((await lines(path())).at(-1)).toEqual({ spool: 'spool', nextSeq: 8 })
    await spool.close()
  })

  it('is read behind a number, and asked for a request', async () => {
    const spool = await openSpool()
    for (const id of [1, 2, 3, 4]) await spool.append(record(id))
    await spool.acknowledge(spool.pending(1))
    const seqs = (after: number, count: number) =>
      spool.pendingAfter(after, count).map(({ seq }) => seq)
    expect([seqs(0, 2), seqs(2, 9), seqs(4, 9)]).toEqual([[2, 3], [3, 4], []])
    expect(spool.find('req_3')).toMatchObject({ seq: 3, ...record(3) })
    expect([spool.find('req_1'), spool.find('req_9')]).toEqual([null, null])
    await spool.close()
  })

  it('wakes whoever waits for a record, or for the end', async () => {
    const spool = await openSpool()
    const stop = new AbortController()
    const waiting = spool.whenPending(stop.signal)
    await spool.append(record(1))
    await waiting
    await spool.acknowledge(spool.pending(1))
    const second = spool.whenPending(stop.signal)
    stop.abort()
    await second
    expect(spool.pendingCount).toBe(0)
    await spool.close()
  })
})
