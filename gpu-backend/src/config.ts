import type { CryptoKey } from 'jose'
import { z } from 'zod'
import { importPrivateKey, importPublicKey } from '#protocol/keys.ts'
import type { DeviceName } from './device/device.ts'
import { deviceNames } from './device/open.ts'
import type { SchedulerLimits } from './engine/scheduler.ts'
import { LOG_LEVELS, type LogLevel } from './log.ts'
import type { Numerics } from './kernels/native/addon.ts'
import type { Quantisation } from './model/model.ts'

/** How long things may take, in milliseconds. */
export interface Timings {
  /** A waiting stream is written to this often; an ordinary close is noticed by writing. */
  readonly keepAliveMs: number
  /** How long an answer that is not streamed keeps its status back while nothing has come. */
  readonly holdMs: number
  /** A request that has not begun by then is given up. */
  readonly queueLimitMs: number
  /** An answer that is not streamed ends with `length` here: clients time out at ten minutes. */
  readonly wholeAnswerLimitMs: number
  /** How long running requests may go on once the process was told to stop. */
  readonly shutdownGraceMs: number
  /** A connection on which nothing moves for so long is closed. */
  readonly idleConnectionMs: number
  /** The edge hears this often what can be taken. */
  readonly reportIntervalMs: number
}

export interface Limits {
  readonly scheduler: SchedulerLimits
  readonly bodyBytesMax: number
  /** Ceiling of prompt and answer together; null: what the model was made for. */
  readonly contextTokensMax: number | null
  /** Tokens the model's cache holds, over all running sequences; no answer can be longer. */
  readonly cacheTokens: number
  /** Beginnings of texts kept in it for prompts to come. */
  readonly prefixesMax: number
  /** Tokens guessed ahead by the checkpoint's draft head; 0: every token takes a step. */
  readonly draftsMax: number
  /** Routed experts kept on the device, of all layers together, the others in host memory; null: all. */
  readonly expertSlots: number | null
  /** Folder for beginnings that have to leave the cache, and bytes there; null: they are dropped. */
  readonly spill: { readonly folder: string; readonly bytesMax: number } | null
  /** Usage records waiting for the edge; with more than this the backend takes no more requests. */
  readonly spoolRecordsMax: number
  /** Text kept for resuming one stream, and of all ended streams together, in UTF-16 units. */
  readonly resumeUnitsPerStreamMax: number
  readonly resumeUnitsMax: number
}

export interface Config {
  readonly checkpoint: string
  readonly device: DeviceName | 'auto'
  /** GPUs that share the model, by the driver's numbers; null: one device. */
  readonly gpus: readonly number[] | null
  readonly quantisation: Quantisation
  /** How exactly the CPU device computes linears. */
  readonly numerics: Numerics
  readonly pool: string
  readonly backendId: string
  readonly host: string
  readonly port: number
  /** `/metrics` answers here alone; null: on the port of everything else. */
  readonly metricsPort: number | null
  readonly edgeUrl: string
  readonly edgePublicKey: CryptoKey
  readonly recordPrivateKey: CryptoKey
  readonly spoolDir: string
  readonly logLevel: LogLevel
  readonly limits: Limits
  readonly timings: Timings
}

/** A setting that is missing or wrong. The message is one line and names the variable. */
export class ConfigError extends Error {
  readonly variable: string

  constructor(variable: string, message: string) {
    super(`${variable} ${message}`)
    this.name = 'ConfigError'
    this.variable = variable
  }
}

/** The cache is laid out in pages of this many tokens. */
const pageTokens = 256

/** GPUs that may share a model. */
const gpusMax = 16

const devices = ['auto', ...deviceNames] as const

const required = (what: string) => z.string({ error: `is required: ${what}` }).min(1, 'is empty')
const name = (what: string) => required(what).max(256, 'has more than 256 characters')
const jwk = (what: string) => required(`${what}, an Ed25519 key as JWK JSON`)

/** A whole number with a default; the units are in the variable's name. */
const whole = (fallback: number, least: number, most: number = 2 ** 31 - 1) => {
  const range = `must be a whole number from ${least} to ${most}`
  const number = z.string().regex(/^\d{1,10}$/, range)
  return number
    .transform(Number)
    .pipe(z.int(range).min(least, range).max(most, range))
    .default(fallback)
}

const environmentSchema = z.object({
  SLUICE_CHECKPOINT: required('a folder or s3:// URL with a published checkpoint'),
  SLUICE_DEVICE: z.enum(devices, `must be one of ${devices.join(', ')}`).default('auto'),
  SLUICE_GPUS: z
    .string()
    .regex(/^(\d{1,2}(,\d{1,2})*)?$/, 'must be numbers of GPUs like 0,1,2,3')
    .default(''),
  SLUICE_QUANTISATION: z.enum(['on', 'off'], 'must be on or off').default('on'),
  SLUICE_NUMERICS: z.enum(['exact', 'fast'], 'must be exact or fast').default('exact'),
  SLUICE_POOL: name('the pool this backend serves, as the edge calls it'),
  SLUICE_BACKEND_ID: name('a name of its own for this backend'),
  SLUICE_HOST: z.string().min(1, 'is empty').default('127.0.0.1'),
  SLUICE_PORT: whole(8080, 0, 65_535),
  SLUICE_METRICS_PORT: whole(0, 0, 65_535),
  SLUICE_EDGE_URL: required('the base URL of the edge, which takes the usage records').pipe(
    z.url({ protocol: /^https?$/, error: 'must be an http or https URL' }),
  ),
  SLUICE_EDGE_PUBLIC_KEY: jwk('what service tokens are checked with'),
  SLUICE_RECORD_PRIVATE_KEY: jwk('what usage records are signed with'),
  SLUICE_SPOOL_DIR: required('a folder for usage records, of this backend alone'),
  SLUICE_LOG: z.enum(LOG_LEVELS, `must be one of ${LOG_LEVELS.join(', ')}`).default('info'),
  SLUICE_MAX_SEQUENCES: whole(8, 1, 4096),
  SLUICE_MAX_WAITING: whole(64, 0, 65_536),
  SLUICE_MAX_WAITING_TOKENS: whole(2_097_152, 1),
  SLUICE_STEP_TOKENS: whole(512, 2, 1_048_576),
  SLUICE_MAX_BODY_BYTES: whole(32 * 2 ** 20, 1024, 512 * 2 ** 20),
  SLUICE_MAX_CONTEXT_TOKENS: whole(0, 0),
  SLUICE_CACHE_TOKENS: whole(4_194_304, pageTokens).refine(
    (tokens) => tokens % pageTokens === 0,
    `must be a multiple of ${pageTokens}`,
  ),
  SLUICE_MAX_PREFIXES: whole(64, 0, 65_536),
  SLUICE_SPECULATION: whole(1, 0, 8),
  SLUICE_EXPERT_SLOTS: whole(0, 0),
  SLUICE_SPILL_DIR: z.string().default(''),
  SLUICE_SPILL_BYTES: whole(16 * 2 ** 30, 1),
  SLUICE_MAX_SPOOL_RECORDS: whole(100_000, 1),
  SLUICE_MAX_STREAM_BUFFER: whole(4 * 2 ** 20, 1024),
  SLUICE_MAX_STREAM_BUFFERS: whole(256 * 2 ** 20, 1024),
  SLUICE_KEEP_ALIVE_MS: whole(1000, 1, 15_000),
  SLUICE_HOLD_MS: whole(20_000, 1, 600_000),
  SLUICE_QUEUE_LIMIT_MS: whole(600_000, 1),
  SLUICE_WHOLE_ANSWER_LIMIT_MS: whole(590_000, 1),
  SLUICE_SHUTDOWN_GRACE_MS: whole(10_000, 0, 600_000),
  SLUICE_IDLE_CONNECTION_MS: whole(120_000, 1000),
  SLUICE_REPORT_INTERVAL_MS: whole(250, 50, 10_000),
})

type Environment = z.infer<typeof environmentSchema>

/** Reads and checks the settings. Throws `ConfigError`, whose message never holds a value. */
export async function parseConfig(
  env: Readonly<Record<string, string | undefined>>,
): Promise<Config> {
  const parsed = environmentSchema.safeParse(env)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]
    throw new ConfigError(String(issue?.path[0] ?? 'SLUICE'), issue?.message ?? 'is not valid')
  }
  const read = parsed.data
  // Half of a step is for prompts, however many sequences have a token in it.
  const stepTokensMin = 2 * read.SLUICE_MAX_SEQUENCES
  if (read.SLUICE_STEP_TOKENS < stepTokensMin) {
    const message = `must be at least ${stepTokensMin}, twice SLUICE_MAX_SEQUENCES`
    throw new ConfigError('SLUICE_STEP_TOKENS', message)
  }
  const gpus = gpusOf(read)
  return Object.freeze({
    checkpoint: read.SLUICE_CHECKPOINT,
    device: read.SLUICE_DEVICE,
    gpus,
    quantisation: read.SLUICE_QUANTISATION,
    numerics: read.SLUICE_NUMERICS,
    pool: read.SLUICE_POOL,
    backendId: read.SLUICE_BACKEND_ID,
    host: read.SLUICE_HOST,
    port: read.SLUICE_PORT,
    metricsPort: read.SLUICE_METRICS_PORT === 0 ? null : read.SLUICE_METRICS_PORT,
    edgeUrl: read.SLUICE_EDGE_URL,
    edgePublicKey: await key(read, 'SLUICE_EDGE_PUBLIC_KEY', importPublicKey),
    recordPrivateKey: await key(read, 'SLUICE_RECORD_PRIVATE_KEY', importPrivateKey),
    spoolDir: read.SLUICE_SPOOL_DIR,
    logLevel: read.SLUICE_LOG,
    limits: limitsOf(read, gpus?.length ?? 1),
    timings: timingsOf(read),
  })
}

/** GPUs that share the model; several of them need what one alone may do without. */
function gpusOf(read: Environment): readonly number[] | null {
  if (read.SLUICE_GPUS === '') return null
  const gpus = read.SLUICE_GPUS.split(',').map(Number)
  if (read.SLUICE_DEVICE !== 'cuda') {
    throw new ConfigError('SLUICE_GPUS', 'is for SLUICE_DEVICE=cuda alone')
  }
  if (new Set(gpus).size < gpus.length || gpus.length > gpusMax) {
    throw new ConfigError('SLUICE_GPUS', `must be at most ${gpusMax} GPUs, each once`)
  }
  if (gpus.length > 1 && read.SLUICE_EXPERT_SLOTS > 0) {
    throw new ConfigError('SLUICE_EXPERT_SLOTS', 'is for one GPU: several have all experts on them')
  }
  if (read.SLUICE_CACHE_TOKENS < gpus.length * pageTokens) {
    const message = `must be at least ${pageTokens} for each of ${gpus.length} GPUs`
    throw new ConfigError('SLUICE_CACHE_TOKENS', message)
  }
  return Object.freeze(gpus)
}

/** Whatever the parser has to say may quote the key, so none of it is passed on. */
async function key(
  read: Environment,
  variable: 'SLUICE_EDGE_PUBLIC_KEY' | 'SLUICE_RECORD_PRIVATE_KEY',
  importKey: (json: string) => Promise<CryptoKey>,
): Promise<CryptoKey> {
  try {
    return await importKey(read[variable])
  } catch {
    const kind = variable === 'SLUICE_RECORD_PRIVATE_KEY' ? 'private' : 'public'
    throw new ConfigError(variable, `is not an Ed25519 ${kind} key as JWK JSON`)
  }
}

function limitsOf(read: Environment, devices: number): Limits {
  const asked = read.SLUICE_MAX_CONTEXT_TOKENS
  // A sequence is on one device, and has that one's share of the cache at most.
  const share = pageTokens * Math.floor(read.SLUICE_CACHE_TOKENS / devices / pageTokens)
  const contextTokensMax = devices === 1 ? asked : Math.min(asked === 0 ? share : asked, share)
  return Object.freeze({
    scheduler: Object.freeze({
      runningMax: read.SLUICE_MAX_SEQUENCES,
      waitingMax: read.SLUICE_MAX_WAITING,
      waitingTokensMax: read.SLUICE_MAX_WAITING_TOKENS,
      stepTokensMax: read.SLUICE_STEP_TOKENS,
    }),
    bodyBytesMax: read.SLUICE_MAX_BODY_BYTES,
    contextTokensMax: contextTokensMax === 0 ? null : contextTokensMax,
    cacheTokens: read.SLUICE_CACHE_TOKENS,
    prefixesMax: read.SLUICE_MAX_PREFIXES,
    draftsMax: read.SLUICE_SPECULATION,
    expertSlots: read.SLUICE_EXPERT_SLOTS === 0 ? null : read.SLUICE_EXPERT_SLOTS,
    spill:
      read.SLUICE_SPILL_DIR === ''
        ? null
        : Object.freeze({ folder: read.SLUICE_SPILL_DIR, bytesMax: read.SLUICE_SPILL_BYTES }),
    spoolRecordsMax: read.SLUICE_MAX_SPOOL_RECORDS,
    resumeUnitsPerStreamMax: read.SLUICE_MAX_STREAM_BUFFER,
    resumeUnitsMax: read.SLUICE_MAX_STREAM_BUFFERS,
  })
}

function timingsOf(read: Environment): Timings {
  return Object.freeze({
    keepAliveMs: read.SLUICE_KEEP_ALIVE_MS,
    holdMs: read.SLUICE_HOLD_MS,
    queueLimitMs: read.SLUICE_QUEUE_LIMIT_MS,
    wholeAnswerLimitMs: read.SLUICE_WHOLE_ANSWER_LIMIT_MS,
    shutdownGraceMs: read.SLUICE_SHUTDOWN_GRACE_MS,
    idleConnectionMs: read.SLUICE_IDLE_CONNECTION_MS,
    reportIntervalMs: read.SLUICE_REPORT_INTERVAL_MS,
  })
}
