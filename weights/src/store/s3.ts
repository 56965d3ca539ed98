import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  S3Client,
  UploadPartCommand,
  type CompletedPart,
} from '@aws-sdk/client-s3'
import type { Readable } from 'node:stream'
import { eachLimited } from '../each-limited.ts'
import { byteSource, splitRange } from './byte-source.ts'
import { isSafeKey } from './key.ts'
import { defaultRetryPolicy, retrying, type RetryPolicy } from './retry.ts'
import { toStoreError } from './s3-errors.ts'
import {
  StoreError,
  type ByteRange,
  type ByteSource,
  type ObjectInfo,
  type Store,
  type StoreCallOptions,
} from './store.ts'

const partsAtOnce = 4

export interface S3StoreOptions {
  readonly bucket: string
  /** Keys begin with it and a slash; empty for the whole bucket. */
  readonly prefix: string
  /** Only for stores other than AWS. */
  readonly endpoint?: string
  readonly region: string
  /** `bucket` in the path and not in the host name; what stores other than AWS understand. */
  readonly forcePathStyle: boolean
  /** Without them the usual places are searched: environment, profile, instance role. */
  readonly credentials?: {
    readonly accessKeyId: string
    readonly secretAccessKey: string
    readonly sessionToken?: string
  }
  /** A connection on which nothing arrives for so long is given up; 30 seconds. */
  readonly idleMsMax?: number
  /** Larger objects go up in parts of this size; 64 MiB. S3 takes no less than 5 MiB. */
  readonly partBytes?: number
  /** For the parts of a large upload, which must not begin again from its first byte. */
  readonly partRetry?: RetryPolicy
}

/** A bucket, or a prefix in one, of any S3-compatible store. */
export function openS3Store(options: S3StoreOptions): Store {
  const { bucket, prefix } = options
  const client = new S3Client({
    region: options.region,
    forcePathStyle: options.forcePathStyle,
    ...(options.endpoint === undefined ? {} : { endpoint: options.endpoint }),
    ...(options.credentials === undefined ? {} : { credentials: options.credentials }),
    // Several compatible stores refuse or corrupt what the newer defaults send; digests of the
    // content are checked above this layer.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    // Retrying is `withRetry`'s, in one place and with the caller's clock.
    maxAttempts: 1,
    requestHandler: { connectionTimeout: 10_000, socketTimeout: options.idleMsMax ?? 30_000 },
  })
  const s3: S3 = {
    client,
    bucket,
    base: prefix === '' ? '' : `${prefix}/`,
    location: locationOf(options),
    partBytes: options.partBytes ?? 64 * 2 ** 20,
    partRetry: options.partRetry ?? defaultRetryPolicy,
  }
  return {
    location: s3.location,
    head: (key, call) => attempt(s3, key, () => head(s3, key, call)),
    getRange: (key, range, call) => attempt(s3, key, () => getRange(s3, key, range, call)),
    put: (key, content, call) => attempt(s3, key, () => put(s3, key, byteSource(content), call)),
    list: (keyPrefix, call) => attempt(s3, keyPrefix, () => list(s3, keyPrefix, call)),
  }
}

/** Of two stores with a bucket of one name, the endpoint says which. */
function locationOf({ bucket, prefix, endpoint }: S3StoreOptions): string {
  const url = prefix === '' ? `s3://${bucket}` : `s3://${bucket}/${prefix}`
  return endpoint === undefined ? url : `${url} at ${new URL(endpoint).host}`
}

interface S3 {
  readonly client: S3Client
  readonly bucket: string
  /** The prefix with its slash. */
  readonly base: string
  readonly location: string
  readonly partBytes: number
  readonly partRetry: RetryPolicy
}

async function attempt<T>(s3: S3, key: string, call: () => Promise<T>): Promise<T> {
  try {
    return await call()
  } catch (error) {
    throw toStoreError(error, key, s3.location)
  }
}

/** Bucket and full key of a call's object. */
function place(s3: S3, key: string): { readonly Bucket: string; readonly Key: string } {
  if (isSafeKey(key)) return { Bucket: s3.bucket, Key: `${s3.base}${key}` }
  throw new StoreError('rejected', key, `${JSON.stringify(key)} is not a usable key`)
}

function sending(call: StoreCallOptions | undefined): { abortSignal?: AbortSignal } {
  return call?.signal === undefined ? {} : { abortSignal: call.signal }
}

async function head(s3: S3, key: string, call?: StoreCallOptions): Promise<ObjectInfo> {
  const reply = await s3.client.send(new HeadObjectCommand(place(s3, key)), sending(call))
  if (reply.ContentLength === undefined) {
    throw new StoreError('unavailable', key, `${s3.location} did not say how long ${key} is`)
  }
  return { key, sizeBytes: reply.ContentLength }
}

async function getRange(
  s3: S3,
  key: string,
  range: ByteRange,
  call?: StoreCallOptions,
): Promise<Uint8Array> {
  const last = range.offset + range.length - 1
  if (range.length <= 0 || range.offset < 0) {
    throw new StoreError('range_not_satisfiable', key, `asked for ${range.length} bytes of ${key}`)
  }
  const command = new GetObjectCommand({
    ...place(s3, key),
    Range: `bytes=${range.offset}-${last}`,
  })
  const reply = await s3.client.send(command, sending(call))
  const body = reply.Body as Readable
  // A store that ignores the range, or cuts it at the object's end, says so here.
  const wanted = `bytes ${range.offset}-${last}/`
  if (reply.ContentRange?.startsWith(wanted) !== true) {
    body.destroy()
    const got = reply.ContentRange ?? 'the whole object'
    throw new StoreError('range_not_satisfiable', key, `${key}: asked for ${wanted}, got ${got}`)
  }
  return readBody(body, { key, length: range.length, signal: call?.signal })
}

/** Exactly `length` bytes, copied as they arrive into the buffer that is returned. */
async function readBody(
  body: Readable,
  { key, length, signal }: { key: string; length: number; signal: AbortSignal | undefined },
): Promise<Uint8Array> {
  const bytes = new Uint8Array(length)
  let done = 0
  // Leaving the loop, by an error too, destroys the stream and with it the connection.
  for await (const chunk of body as AsyncIterable<Uint8Array>) {
    if (signal?.aborted === true) throw new StoreError('aborted', key, `stopped reading ${key}`)
    if (done + chunk.length > length) {
      throw new StoreError('short_read', key, `${key} sent more than the ${length} bytes asked for`)
    }
    bytes.set(chunk, done)
    done += chunk.length
  }
  if (done === length) return bytes
  throw new StoreError('short_read', key, `${key} broke off after ${done} of ${length} bytes`)
}

async function put(
  s3: S3,
  key: string,
  source: ByteSource,
  call?: StoreCallOptions,
): Promise<void> {
  if (source.sizeBytes > s3.partBytes) return putInParts(s3, key, source, call)
  const bytes =
    source.sizeBytes === 0
      ? new Uint8Array(0)
      : await source.read({ offset: 0, length: source.sizeBytes })
  const command = new PutObjectCommand({
    ...place(s3, key),
    Body: bytes,
    ContentLength: bytes.length,
  })
  await s3.client.send(command, sending(call))
}

/** The object appears when all parts are there; after a failure what was sent is given up. */
async function putInParts(
  s3: S3,
  key: string,
  source: ByteSource,
  call?: StoreCallOptions,
): Promise<void> {
  const where = place(s3, key)
  const begun = await s3.client.send(new CreateMultipartUploadCommand(where), sending(call))
  const upload = { ...where, UploadId: begun.UploadId }
  try {
    const parts: CompletedPart[] = []
    const ranges = splitRange(source.sizeBytes, s3.partBytes).map((range, index) => ({
      range,
      number: index + 1,
    }))
    const sendPart = async (
      { range, number }: (typeof ranges)[number],
      signal: AbortSignal,
    ): Promise<void> => {
      const Body = await source.read(range)
      const part = { ...upload, PartNumber: number, Body, ContentLength: range.length }
      const reply = await attempt(s3, key, () =>
        s3.client.send(new UploadPartCommand(part), { abortSignal: signal }),
      )
      parts[number - 1] = { PartNumber: number, ETag: reply.ETag }
    }
    await eachLimited({ items: ranges, limit: partsAtOnce, signal: call?.signal }, (part, signal) =>
      retrying(() => sendPart(part, signal), s3.partRetry, { key, signal }),
    )
    const complete = { ...upload, MultipartUpload: { Parts: parts } }
    await s3.client.send(new CompleteMultipartUploadCommand(complete), sending(call))
  } catch (error) {
    // Parts left behind cost storage, but the failure to report is the upload's.
    await s3.client.send(new AbortMultipartUploadCommand(upload)).catch(() => undefined)
    throw error
  }
}

async function list(
  s3: S3,
  keyPrefix: string,
  call?: StoreCallOptions,
): Promise<readonly ObjectInfo[]> {
  const objects: ObjectInfo[] = []
  let token: string | undefined
  do {
    const command = new ListObjectsV2Command({
      Bucket: s3.bucket,
      Prefix: `${s3.base}${keyPrefix}`,
      ...(token === undefined ? {} : { ContinuationToken: token }),
    })
    const page = await s3.client.send(command, sending(call))
    for (const { Key, Size } of page.Contents ?? []) {
      const key = Key?.slice(s3.base.length)
      if (key !== undefined && isSafeKey(key)) objects.push({ key, sizeBytes: Size ?? 0 })
    }
    token = page.IsTruncated === true ? page.NextContinuationToken : undefined
  } while (token !== undefined)
  return objects.sort((a, b) => (a.key < b.key ? -1 : 1))
}
