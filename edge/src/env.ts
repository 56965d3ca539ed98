import type { CryptoKey } from 'jose'
import { importPrivateKey, importPublicKey } from '#protocol/keys.ts'
import { z } from 'zod'
import type { IdentityIssuer } from './keys/identity-tokens.ts'
import { isTenantId } from './keys/api-key.ts'
import type { Directory } from './objects/directory/directory.ts'
import type { Pool as PoolObject } from './objects/pool/pool.ts'
import type { Tenant } from './objects/tenant/tenant.ts'
import { ServiceTokens } from './upstream/service-tokens.ts'

/** What the platform hands the Worker; written by hand, the bindings as in wrangler.toml. */
export interface Env {
  readonly TENANT: DurableObjectNamespace<Tenant>
  readonly DIRECTORY: DurableObjectNamespace<Directory>
  readonly POOL: DurableObjectNamespace<PoolObject>
  /** Against floods alone: by address and by key; without them nobody is held back here. */
  readonly FLOOD_BY_ADDRESS?: RateLimit
  readonly FLOOD_BY_KEY?: RateLimit
  /** JSON: `[{id, url, models, recordPublicKey}]`, one entry a pool of backends. */
  readonly POOLS?: string
  /** Secret. JSON: `{"pool": "key"}`, what pools of other engines ask for. */
  readonly POOL_API_KEYS?: string
  /** Secret. The Ed25519 private key, as a JWK, that service tokens are signed with. */
  readonly EDGE_SIGNING_KEY?: string
  /** Secret. What the admin API asks for. */
  readonly ADMIN_TOKEN?: string
  /** JSON: `[{issuer, audience, jwksUrl, algorithm, tenant | tenantClaim}]`; none without it. */
  readonly OIDC_ISSUERS?: string
  readonly MAX_BODY_BYTES?: string
  readonly BACKEND_HEADERS_TIMEOUT_MS?: string
}

type Binding = 'TENANT' | 'DIRECTORY' | 'POOL' | 'FLOOD_BY_ADDRESS' | 'FLOOD_BY_KEY'
type Variable = Exclude<keyof Env, Binding>

interface AnyPool {
  readonly id: string
  /** Without a trailing slash; the API's paths follow it. */
  readonly url: string
  readonly models: readonly string[]
}

/** A group of our own backends that serve the same models behind one address. */
export interface SluicePool extends AnyPool {
  readonly kind: 'sluice'
  /** Each backend's own address: what one has run, the next knows nothing of. */
  readonly backendUrls: readonly string[]
  /** Checks the usage records this pool's backends sign. */
  readonly recordPublicKey: CryptoKey
}

/** Another engine that speaks chat completions: no records, no reports, no tokens of ours. */
export interface OpenAiPool extends AnyPool {
  readonly kind: 'openai'
  readonly apiKey: string | null
}

export type Pool = SluicePool | OpenAiPool

/** Those pools that keep records, in their order. */
export function sluicePools(pools: readonly Pool[]): readonly SluicePool[] {
  return pools.filter((pool) => pool.kind === 'sluice')
}

export interface Settings {
  readonly pools: readonly Pool[]
  readonly signingKey: CryptoKey
  readonly serviceTokens: ServiceTokens
  readonly adminToken: string
  readonly identityIssuers: readonly IdentityIssuer[]
  readonly bodyBytesMax: number
  readonly backendHeadersTimeoutMs: number
}

/** A variable that is missing or wrong. The message never holds its value. */
export class SettingsError extends Error {
  readonly variable: Variable

  constructor(variable: Variable, problem: string) {
    super(`${variable} ${problem}`)
    this.name = 'SettingsError'
    this.variable = variable
  }
}

const ADMIN_TOKEN_LENGTH_MIN = 32
/** A full context of 1,048,576 tokens at 16 bytes each, three to four times what text needs. */
const BODY_BYTES_DEFAULT = 16 * 1024 * 1024
/** Longer than a backend holds back the status line of an answer that waits in its queue. */
const HEADERS_TIMEOUT_MS_DEFAULT = 30_000

const httpUrl = z.url({ protocol: /^https?$/, error: 'must be an http or https URL' })

const anyPool = {
  id: z.string().regex(/^[a-z0-9-]{1,64}$/, 'must be 1 to 64 of a-z, 0-9 and -'),
  url: httpUrl,
  models: z.array(z.string().min(1)).min(1),
}

const sluicePoolSchema = z.object({
  ...anyPool,
  kind: z.literal('sluice').default('sluice'),
  backendUrls: z.array(httpUrl).min(1).optional(),
  recordPublicKey: z.object({ kty: z.string(), crv: z.string(), x: z.string() }),
})

const poolSchema = z.discriminatedUnion(
  'kind',
  [sluicePoolSchema, z.object({ ...anyPool, kind: z.literal('openai') })],
  { error: "must be 'sluice' or 'openai'" },
)

const poolsSchema = z
  .array(poolSchema)
  .min(1)
  .refine((pools) => new Set(pools.map((pool) => pool.id)).size === pools.length, {
    error: 'names a pool twice',
  })

/** Signatures that one party makes and another checks; a shared secret is none. */
const TOKEN_ALGORITHMS = ['RS256', 'PS256', 'ES256', 'ES384', 'EdDSA'] as const

const issuersSchema = z.array(
  z
    .object({
      issuer: httpUrl,
      audience: z.string().min(1),
      jwksUrl: httpUrl,
      algorithm: z.enum(TOKEN_ALGORITHMS),
      tenant: z.string().refine(isTenantId, "must be a tenant's id").optional(),
      tenantClaim: z.string().min(1).optional(),
    })
    .refine((entry) => (entry.tenant === undefined) !== (entry.tenantClaim === undefined), {
      error: "needs one of 'tenant' and 'tenantClaim'",
    }),
)

/** The Worker's variables as checked settings. Throws `SettingsError` naming the first bad one. */
export async function parseEnv(env: Env): Promise<Settings> {
  const adminToken = required(env, 'ADMIN_TOKEN')
  if (adminToken.length < ADMIN_TOKEN_LENGTH_MIN) {
    throw new SettingsError('ADMIN_TOKEN', `is shorter than ${ADMIN_TOKEN_LENGTH_MIN} characters`)
  }
  const signingKey = await parseSigningKey(required(env, 'EDGE_SIGNING_KEY'))
  return {
    pools: await parsePools(required(env, 'POOLS'), parsePoolApiKeys(env.POOL_API_KEYS)),
    signingKey,
    serviceTokens: new ServiceTokens(signingKey),
    adminToken,
    identityIssuers: parseIssuers(env.OIDC_ISSUERS),
    bodyBytesMax: wholeNumber(env, 'MAX_BODY_BYTES', BODY_BYTES_DEFAULT),
    backendHeadersTimeoutMs: wholeNumber(
      env,
      'BACKEND_HEADERS_TIMEOUT_MS',
      HEADERS_TIMEOUT_MS_DEFAULT,
    ),
  }
}

function required(env: Env, variable: Variable): string {
  const value = env[variable]
  if (value === undefined || value === '') throw new SettingsError(variable, 'is not set')
  return value
}

function wholeNumber(env: Env, variable: Variable, fallback: number): number {
  const text = env[variable]
  if (text === undefined) return fallback
  const value = /^[0-9]{1,12}$/.test(text) ? Number(text) : 0
  if (value < 1) throw new SettingsError(variable, 'must be a whole number of at least 1')
  return value
}

async function parsePools(
  text: string,
  apiKeys: Readonly<Record<string, string>>,
): Promise<readonly Pool[]> {
  const result = poolsSchema.safeParse(parseJson('POOLS', text))
  if (!result.success) throw new SettingsError('POOLS', describeIssue(result.error))
  return Promise.all(
    result.data.map(async (pool, index): Promise<Pool> => {
      const { id, models } = pool
      const url = bare(pool.url)
      if (pool.kind === 'openai') {
        return { kind: 'openai', id, url, models, apiKey: apiKeys[id] ?? null }
      }
      const { recordPublicKey, backendUrls } = pool
      const jwk = JSON.stringify(recordPublicKey)
      return {
        kind: 'sluice',
        id,
        url,
        models,
        backendUrls: backendUrls?.map(bare) ?? [url],
        recordPublicKey: await importKey(
          () => importPublicKey(jwk),
          new SettingsError('POOLS', `[${index}].recordPublicKey is not an Ed25519 public JWK`),
        ),
      }
    }),
  )
}

function bare(url: string): string {
  return url.replace(/\/+$/, '')
}

function parsePoolApiKeys(text: string | undefined): Readonly<Record<string, string>> {
  if (text === undefined || text === '') return {}
  const result = z.record(z.string(), z.string().min(1)).safeParse(parseJson('POOL_API_KEYS', text))
  if (result.success) return result.data
  throw new SettingsError('POOL_API_KEYS', 'must be an object of pool ids and keys')
}

function parseIssuers(text: string | undefined): readonly IdentityIssuer[] {
  if (text === undefined || text === '') return []
  const result = issuersSchema.safeParse(parseJson('OIDC_ISSUERS', text))
  if (!result.success) throw new SettingsError('OIDC_ISSUERS', describeIssue(result.error))
  return result.data.map(({ tenant, tenantClaim, ...rest }) => ({
    ...rest,
    tenantId: tenant ?? null,
    tenantClaim: tenantClaim ?? '',
  }))
}

async function parseSigningKey(text: string): Promise<CryptoKey> {
  parseJson('EDGE_SIGNING_KEY', text)
  const failure = new SettingsError('EDGE_SIGNING_KEY', 'is not an Ed25519 private JWK')
  return importKey(() => importPrivateKey(text), failure)
}

async function importKey(
  start: () => Promise<CryptoKey>,
  failure: SettingsError,
): Promise<CryptoKey> {
  try {
    return await start()
  } catch {
    // The cause is left out: its message may quote the key.
    throw failure
  }
}

function parseJson(variable: Variable, text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    // The parser's own message would quote the value.
    throw new SettingsError(variable, 'is not valid JSON')
  }
}

function describeIssue(error: z.ZodError): string {
  const issue = error.issues[0]
  if (issue === undefined) return 'is invalid'
  const path = issue.path.map((part) =>
    typeof part === 'number' ? `[${part}]` : `.${String(part)}`,
  )
  return path.length === 0 ? `is invalid: ${issue.message}` : `${path.join('')}: ${issue.message}`
}
