import { convertV4MiniflareOptions, Log, LogLevel, Miniflare } from 'miniflare'

/** Where Miniflare serves its R2 buckets by S3's protocol. */
const s3Path = '/cdn-cgi/local/r2/s3'

export interface ObjectStoreOptions {
  /** Port on loopback; without it a free one. */
  readonly port?: number
  /** Where the objects are kept. */
  readonly stateDir: string
  readonly accessKeyId: string
  readonly secretAccessKey: string
  readonly bucket: string
}

export interface RunningObjectStore {
  /** For an S3 client: region `auto`, the bucket in the path. */
  readonly endpoint: string
  close(): Promise<void>
}

/**
 * Serves one bucket on loopback by S3's protocol, with signatures checked: Miniflare's R2, so that
 * the local stack and the tests need no server of their own.
 */
export async function startObjectStore(options: ObjectStoreOptions): Promise<RunningObjectStore> {
  process.env['CLOUDFLARE_CF_FETCH_ENABLED'] = 'false'
  const { accessKeyId, secretAccessKey, bucket } = options
  const miniflare = new Miniflare(
    convertV4MiniflareOptions({
      name: 'object-store',
      modules: [{ type: 'ESModule', path: 'index.js', contents: worker }],
      compatibilityDate: '2026-10-01',
      r2Buckets: { BUCKET: { id: bucket, s3Credentials: { accessKeyId, secretAccessKey } } },
      resourcePersistencePath: options.stateDir,
      host: '127.0.0.1',
      port: options.port ?? 0,
      cf: false,
      log: new Log(LogLevel.ERROR),
      logRequests: false,
    }),
  )
  const ready = await miniflare.ready
  return { endpoint: `${ready.origin}${s3Path}`, close: () => miniflare.dispose() }
}

/** A bucket needs a Worker to be bound to; requests outside the S3 path end here. */
const worker = 'export default { fetch: () => new Response(null, { status: 404 }) }'
