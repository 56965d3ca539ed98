import { strict as assert } from 'node:assert'
import { randomUUID } from 'node:crypto'
import { mkdir, open, readFile, rename, rm, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { errorFields, type Log } from '../log.ts'

/** A usage record on disk until the edge has it. `seq` counts within the file. */
export interface SpooledRecord {
  readonly seq: number
  readonly requestId: string
  readonly jws: string
}

export interface RejectedRecord {
  readonly record: SpooledRecord
  readonly reason: string
}

/** The part of a file handle the spool writes through. */
export interface SpoolFile {
  appendFile(text: string): Promise<void>
  datasync(): Promise<void>
  truncate(sizeBytes: number): Promise<void>
  close(): Promise<void>
}

export interface SpoolOptions {
  readonly log: Log
  /** Names a spool that has no name yet. */
  readonly randomId?: () => string
  readonly openFile?: (path: string) => Promise<SpoolFile>
}

const logFileName = 'records.jsonl'
const rejectedFileName = 'rejected.jsonl'

/** Lines nobody needs any more are worth a rewrite beyond this, and when most of the file is such. */
const deadBytesMax = 2 ** 20

const recordLine = z.strictObject({
  seq: z.int().min(1),
  requestId: z.string().min(1),
  jws: z.string().min(1),
})
const acknowledgedLine = z.strictObject({ acknowledged: z.array(z.int().min(1)) })
/** Written with a new file: which spool this is, and where counting goes on. */
const nameLine = z.strictObject({ spool: z.string().min(1), nextSeq: z.int().min(1) })
const spoolLine = z.union([recordLine, acknowledgedLine, nameLine])

interface LiveRecord extends SpooledRecord {
  readonly sizeBytes: number
}

interface WaitingAppend {
  readonly line: string
  readonly record: LiveRecord
  readonly resolve: () => void
  readonly reject: (error: unknown) => void
}

/**
 * Usage records in an append-only file, one process at a time. A record counts as kept once
 * `append` resolves: it has been synced, together with all that came meanwhile. Acknowledgements are
 * lines of the same file and are not synced: one that is lost costs a second push of records that
 * the edge applies once. Numbers are never given twice, so that a reader's cursor stays good.
 */
export class RecordSpool {
  /** Drawn when the spool was made; another disk has another. */
  readonly id: string
  readonly #directory: string
  readonly #openFile: (path: string) => Promise<SpoolFile>
  readonly #log: Log
  readonly #pending = new Map<number, LiveRecord>()
  readonly #seqOf = new Map<string, number>()
  #file: SpoolFile
  #sizeBytes: number
  #nextSeq: number
  #appends: WaitingAppend[] = []
  /** Every change of the file waits for the one before it. */
  #tail: Promise<unknown> = Promise.resolve()
  #wake: (() => void) | null = null

  private constructor(
    loaded: LoadedLog & { readonly id: string },
    file: SpoolFile,
    directory: string,
    options: SpoolOptions,
  ) {
    this.id = loaded.id
    this.#directory = directory
    this.#openFile = options.openFile ?? openForAppend
    this.#log = options.log
    this.#file = file
    this.#sizeBytes = loaded.sizeBytes
    this.#nextSeq = loaded.nextSeq
    for (const record of loaded.pending) this.#remember(record)
  }

  /** Opens the spool in `directory`, made if it is not there; mends what a crash left half-written. */
  static async open(directory: string, options: SpoolOptions): Promise<RecordSpool> {
    await mkdir(directory, { recursive: true, mode: 0o700 })
    const path = join(directory, logFileName)
    const loaded = parseLog(await readIfThere(path))
    for (const line of loaded.unreadable) {
      options.log.error('usage_record_unreadable', { bytes: line.length })
      await appendSynced(join(directory, rejectedFileName), { reason: 'unreadable line', line })
    }
    const file = await (options.openFile ?? openForAppend)(path)
    if (loaded.tornBytes > 0) {
      options.log.warn('usage_record_torn', { bytes: loaded.tornBytes })
      await file.truncate(loaded.sizeBytes)
    }
    const named = await nameSpool(loaded, file, options)
    await file.datasync()
    await syncDirectory(directory)
    const spool = new RecordSpool(named, file, directory, options)
    if (loaded.unreadable.length > 0) await spool.#compact()
    return spool
  }

  get pendingCount(): number {
    return this.#pending.size
  }

  /** Request ids of every record that is not acknowledged yet. */
  pendingRequestIds(): string[] {
    return Array.from(this.#pending.values(), (record) => record.requestId)
  }

  /** The oldest records that the edge has not acknowledged. */
  pending(count: number): readonly SpooledRecord[] {
    const oldest: SpooledRecord[] = []
    for (const record of this.#pending.values()) {
      if (oldest.length === count) break
      oldest.push(record)
    }
    return oldest
  }

  /** The pending record of this request, if there is one. */
  find(requestId: string): SpooledRecord | null {
    const seq = this.#seqOf.get(requestId)
    return seq === undefined ? null : (this.#pending.get(seq) ?? null)
  }

  /** Pending records numbered above `seq`, oldest first. */
  pendingAfter(seq: number, count: number): readonly SpooledRecord[] {
    const found: SpooledRecord[] = []
    for (const record of this.#pending.values()) {
      if (found.length === count) break
      if (record.seq > seq) found.push(record)
    }
    return found
  }

  /** Resolves as soon as something is pending, or the signal aborts. */
  async whenPending(signal: AbortSignal): Promise<void> {
    if (this.#pending.size > 0 || signal.aborted) return
    const { promise, resolve } = Promise.withResolvers<void>()
    const wake = (): void => resolve()
    this.#wake = wake
    signal.addEventListener('abort', wake, { once: true })
    await promise
    signal.removeEventListener('abort', wake)
  }

  /** Resolves when the record is on disk. Rejects, with nothing kept, when the disk refuses. */
  append(record: { readonly requestId: string; readonly jws: string }): Promise<void> {
    const spooled = { seq: this.#nextSeq, requestId: record.requestId, jws: record.jws }
    const line = toLine(spooled)
    const live: LiveRecord = { ...spooled, sizeBytes: Buffer.byteLength(line) }
    this.#nextSeq += 1
    return new Promise((resolve, reject) => {
      this.#appends.push({ line, record: live, resolve, reject })
      // Whoever comes while a sync is under way shares the next one.
      if (this.#appends.length === 1) void this.#exclusively(() => this.#flush())
    })
  }

  async acknowledge(records: readonly SpooledRecord[]): Promise<void> {
    if (records.length === 0) return
    await this.#exclusively(async () => {
      const line = `${JSON.stringify({ acknowledged: records.map(({ seq }) => seq) })}\n`
      await this.#write(line, { sync: false })
      for (const { seq } of records) this.#forget(seq)
      await this.#compactIfWorthwhile()
    })
  }

  /** Sets records aside that the edge will never take, where an operator can look at them. */
  async reject(rejected: readonly RejectedRecord[]): Promise<void> {
    const path = join(this.#directory, rejectedFileName)
    for (const { record, reason } of rejected) {
      const { requestId, jws } = record
      await this.#exclusively(() => appendSynced(path, { reason, requestId, jws }))
      this.#log.error('usage_record_rejected', { request_id: requestId, reason })
    }
    await this.acknowledge(rejected.map(({ record }) => record))
  }

  /** Waits for what is being written and closes the file. */
  async close(): Promise<void> {
    await this.#exclusively(() => this.#file.close())
  }

  async #flush(): Promise<void> {
    const batch = this.#appends
    this.#appends = []
    try {
      await this.#write(batch.map(({ line }) => line).join(''), { sync: true })
    } catch (error) {
      for (const { reject } of batch) reject(error)
      return
    }
    for (const { record, resolve } of batch) {
      this.#remember(record)
      resolve()
    }
    this.#wake?.()
    this.#wake = null
  }

  #remember(record: LiveRecord): void {
    this.#pending.set(record.seq, record)
    this.#seqOf.set(record.requestId, record.seq)
  }

  #forget(seq: number): void {
    const record = this.#pending.get(seq)
    if (record === undefined) return
    this.#pending.delete(seq)
    if (this.#seqOf.get(record.requestId) === seq) this.#seqOf.delete(record.requestId)
  }

  /** All of `text` or nothing: half a line left behind would run into the next one. */
  async #write(text: string, { sync }: { readonly sync: boolean }): Promise<void> {
    try {
      await this.#file.appendFile(text)
      if (sync) await this.#file.datasync()
    } catch (error) {
      // Should this fail as well, the next start finds the half line and cuts it off.
      await this.#file.truncate(this.#sizeBytes).catch((failure: unknown) => {
        this.#log.error('spool_not_truncated', errorFields(failure))
      })
      throw error
    }
    this.#sizeBytes += Buffer.byteLength(text)
  }

  async #compactIfWorthwhile(): Promise<void> {
    const deadBytes = this.#sizeBytes - this.#liveBytes()
    if (deadBytes >= deadBytesMax && deadBytes > this.#sizeBytes / 2) await this.#compact()
  }

  /** Writes the pending records to a new file and puts it in the old one's place. */
  async #compact(): Promise<void> {
    const path = join(this.#directory, logFileName)
    const temporary = `${path}.tmp`
    await rm(temporary, { force: true })
    const file = await this.#openFile(temporary)
    const name = toNameLine({ spool: this.id, nextSeq: this.#nextSeq })
    await file.appendFile(name + Array.from(this.#pending.values(), toLine).join(''))
    await file.datasync()
    await rename(temporary, path)
    await syncDirectory(this.#directory)
    await this.#file.close()
    this.#file = file
    this.#sizeBytes = Buffer.byteLength(name) + this.#liveBytes()
  }

  #liveBytes(): number {
    let total = 0
    for (const { sizeBytes } of this.#pending.values()) total += sizeBytes
    return total
  }

  #exclusively<T>(task: () => Promise<T>): Promise<T> {
    const result = this.#tail.then(task)
    // The next task runs whatever became of this one; its caller hears of it.
    this.#tail = result.catch(() => undefined)
    return result
  }
}

function toLine({ seq, requestId, jws }: SpooledRecord): string {
  return `${JSON.stringify({ seq, requestId, jws })}\n`
}

function toNameLine(name: z.infer<typeof nameLine>): string {
  return `${JSON.stringify(name)}\n`
}

interface LoadedLog {
  /** null: the spool is new, or was made before spools had names. */
  readonly id: string | null
  readonly pending: readonly LiveRecord[]
  readonly nextSeq: number
  /** Up to the end of the last whole line. */
  readonly sizeBytes: number
  readonly tornBytes: number
  readonly unreadable: readonly string[]
}

function parseLog(bytes: Buffer): LoadedLog {
  const sizeBytes = bytes.lastIndexOf(0x0a) + 1
  const pending = new Map<number, LiveRecord>()
  const unreadable: string[] = []
  let nextSeq = 1
  let id: string | null = null
  for (const text of bytes.toString('utf8', 0, sizeBytes).split('\n').slice(0, -1)) {
    const line = parseLine(text)
    if (line === null) {
      unreadable.push(text)
    } else if ('acknowledged' in line) {
      for (const seq of line.acknowledged) pending.delete(seq)
    } else if ('spool' in line) {
      id = line.spool
      nextSeq = Math.max(nextSeq, line.nextSeq)
    } else {
      pending.set(line.seq, { ...line, sizeBytes: Buffer.byteLength(text) + 1 })
      nextSeq = Math.max(nextSeq, line.seq + 1)
    }
  }
  const tornBytes = bytes.length - sizeBytes
  return { id, pending: [...pending.values()], nextSeq, sizeBytes, tornBytes, unreadable }
}

/** The log with its name, which is written down if it had none. */
async function nameSpool(
  loaded: LoadedLog,
  file: SpoolFile,
  { randomId = randomUUID }: SpoolOptions,
): Promise<LoadedLog & { readonly id: string }> {
  if (loaded.id !== null) return { ...loaded, id: loaded.id }
  const id = randomId()
  const line = toNameLine({ spool: id, nextSeq: loaded.nextSeq })
  await file.appendFile(line)
  return { ...loaded, id, sizeBytes: loaded.sizeBytes + Buffer.byteLength(line) }
}

function parseLine(text: string): z.infer<typeof spoolLine> | null {
  try {
    return spoolLine.parse(JSON.parse(text))
  } catch {
    // Told apart by nobody: whatever is wrong with it, the line is set aside whole.
    return null
  }
}

async function readIfThere(path: string): Promise<Buffer> {
  try {
    return await readFile(path)
  } catch (error) {
    assert(error instanceof Error)
    if ('code' in error && error.code === 'ENOENT') return Buffer.alloc(0)
    throw error
  }
}

function openForAppend(path: string): Promise<FileHandle> {
  return open(path, 'a', 0o600)
}

async function appendSynced(path: string, value: unknown): Promise<void> {
  const file = await openForAppend(path)
  try {
    await file.appendFile(`${JSON.stringify(value)}\n`)
    await file.datasync()
  } finally {
    await file.close()
  }
}

/** A new or renamed file is only there after a crash if its directory was synced too. */
async function syncDirectory(directory: string): Promise<void> {
  const handle = await open(directory, 'r')
  try {
    await handle.sync()
  } finally {
    await handle.close()
  }
}
