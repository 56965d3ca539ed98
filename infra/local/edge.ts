import { build } from 'esbuild'
import { convertV4MiniflareOptions, Log, LogLevel, Miniflare } from 'miniflare'
import type { Json } from 'miniflare'
import { unstable_getMiniflareWorkerOptions } from 'wrangler'

const WRANGLER_TOML = new URL('../../wrangler.toml', import.meta.url).pathname

export interface EdgeOptions {
  /** The Worker's variables and secrets, laid over those of wrangler.toml. */
  readonly vars: Readonly<Record<string, string>>
  /** Where the Durable Objects' databases are kept; null keeps them for this run only. */
  readonly stateDir: string | null
  /** Port on loopback; 0 takes a free one. */
  readonly port: number
  /** Takes each line the Worker logs; without it they go to stderr. */
  readonly onLog?: (line: string) => void
}

export interface RunningEdge {
  /** Without a trailing slash. */
  readonly url: string
  close(): Promise<void>
}

/**
 * Runs the edge Worker in workerd on loopback, from the wrangler.toml that deploys it. Miniflare
 * rather than `wrangler dev`, whose proxy adds milliseconds and hides disconnects. Nothing leaves
 * the machine: no metrics, no fetched request metadata.
 */
export async function startEdge(options: EdgeOptions): Promise<RunningEdge> {
  process.env['WRANGLER_SEND_METRICS'] = 'false'
  process.env['CLOUDFLARE_CF_FETCH_ENABLED'] = 'false'
  const { workerOptions } = unstable_getMiniflareWorkerOptions(WRANGLER_TOML)
  // Miniflare counts floods in an object of its own, half a millisecond a request; the platform does
  // not, and on loopback there are none.
  const { modulesRules: _rules, rootPath: _root, ratelimits: _floods, ...worker } = workerOptions
  const vars = worker.bindings as Readonly<Record<string, Json>> | undefined
  const onLog = options.onLog ?? ((line: string) => void process.stderr.write(`${line}\n`))
  const miniflare = new Miniflare(
    convertV4MiniflareOptions({
      ...worker,
      bindings: { ...vars, ...options.vars },
      modules: [{ type: 'ESModule', path: 'index.js', contents: await bundleEdge() }],
      host: '127.0.0.1',
      port: options.port,
      cf: false,
      log: new Log(LogLevel.WARN),
      logRequests: false,
      handleStructuredLogs: ({ message }) => onLog(message),
      ...(options.stateDir === null ? {} : { resourcePersistencePath: options.stateDir }),
    }),
  )
  const ready = await miniflare.ready
  return { url: ready.origin, close: () => miniflare.dispose() }
}

/** The Worker and everything it imports as one module, as wrangler would bundle it. */
export async function bundleEdge(): Promise<string> {
  const { main } = unstable_getMiniflareWorkerOptions(WRANGLER_TOML)
  if (main === undefined) throw new Error(`${WRANGLER_TOML} names no main module`)
  const result = await build({
    entryPoints: [main],
    bundle: true,
    write: false,
    format: 'esm',
    target: 'es2024',
    conditions: ['workerd', 'worker', 'browser'],
    external: ['cloudflare:*', 'node:*'],
    logLevel: 'error',
  })
  const [output] = result.outputFiles
  if (output === undefined) throw new Error(`esbuild wrote nothing for ${main}`)
  return output.text
}
