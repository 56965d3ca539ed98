import { strict as assert } from 'node:assert'
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
const spoolLine = z.union([recordLine, acknowledgedLine])

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
 * the edge applies once.
 */
export class RecordSpool {
  readonly #directory: string
  readonly #openFile: (path: string) => Promise<SpoolFile>
  readonly #log: Log
  readonly #pending = new Map<number, LiveRecord>()
  #file: SpoolFile
  #sizeBytes: number
  #nextSeq: number
  #appends: WaitingAppend[] = []
  /** Every change of the file waits for the one before it. */
  #tail: Promise<unknown> = Promise.resolve()
  #wake: (() => void) | null = null

  private constructor(
    loaded: LoadedLog,
    file: SpoolFile,
    directory: string,
    options: SpoolOptions,
  ) {
    this.#directory = directory
    this.#openFile = options.openFile ?? openForAppend
    this.#log = options.log
    this.#file = file
    this.#sizeBytes = loaded.sizeBytes
    this.#nextSeq = loaded.nextSeq
    for (const record of loaded.pending) this.#pending.set(record.seq, record)
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
    await file.datasync()
    await syncDirectory(directory)
    const spool = new RecordSpool(loaded, file, directory, options)
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
      for (const { seq } of records) this.#pending.delete(seq)
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
      this.#pending.set(record.seq, record)
      resolve()
    }
    this.#wake?.()
    this.#wake = null
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
    await file.appendFile(Array.from(this.#pending.values(), toLine).join(''))
    await file.datasync()
    await rename(temporary, path)
    await syncDirectory(this.#directory)
    await this.#file.close()
    this.#file = file
    this.#sizeBytes = this.#liveBytes()
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

interface LoadedLog {
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
  for (const text of bytes.toString('utf8', 0, sizeBytes).split('\n').slice(0, -1)) {
    const line = parseLine(text)
    if (line === null) {
      unreadable.push(text)
    } else if ('acknowledged' in line) {
      for (const seq of line.acknowledged) pending.delete(seq)
    } else {
      pending.set(line.seq, { ...line, sizeBytes: Buffer.byteLength(text) + 1 })
      nextSeq = Math.max(nextSeq, line.seq + 1)
    }
  }
  const tornBytes = bytes.length - sizeBytes
  return { pending: [...pending.values()], nextSeq, sizeBytes, tornBytes, unreadable }
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
