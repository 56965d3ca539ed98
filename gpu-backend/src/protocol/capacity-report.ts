import type { CryptoKey } from 'jose'
import { jwtVerify, SignJWT } from 'jose'
import { z } from 'zod'

/**
 * What a backend can take, told to the edge over a WebSocket that the backend dials:
 * `{edge}/internal/pools/{pool}/reports`, with a token of its own in `authorization`. Reports are
 * JSON text, one a message, several a second; each stands for itself, so one that is lost costs
 * nothing but its age.
 */
const count = z.int().min(0)
const rate = z.number().min(0)
const name = z.string().min(1).max(256)

/** How far one running request is; what it will cost is trued up from this while it streams. */
const requestProgressSchema = z.object({
  requestId: name,
  promptTokens: count,
  cachedTokens: count,
  /** Generated so far, reasoning included. */
  completionTokens: count,
})

/** More than any engine runs at once; the oldest come first. */
export const REPORT_PROGRESS_MAX = 4096

export const capacityReportSchema = z.object({
  version: z.literal(1),
  pool: name,
  backendId: name,
  /** Drawn anew by every process: what an earlier one has said or promised is void. */
  incarnation: name,
  /** Goes up with each report of an incarnation, over all its connections; may leave numbers out. */
  seq: z.int().min(1),
  atMs: count,
  /** Cache that no request holds or that can be had at once, in tokens. */
  freeCacheTokens: count,
  cacheTokensMax: count,
  /** Requests in the running set, and those accepted that wait for a place in it. */
  running: count,
  waiting: count,
  /** Prompt tokens of those that wait. */
  waitingTokens: count,
  /** Over the last few seconds, the whole backend's; 0 while nothing runs. */
  prefillTokensPerSecond: rate,
  decodeTokensPerSecond: rate,
  /** Takes nothing more: shutting down, or not ready. */
  draining: z.boolean(),
  /** Ids of the models served; empty until loaded. */
  models: z.array(name).max(64),
  /** A summary of which prompt beginnings are cached, for routing; opaque here. */
  prefixDigest: z.string().max(65_536).optional(),
  progress: z.array(requestProgressSchema).max(REPORT_PROGRESS_MAX),
})

export type CapacityReport = z.infer<typeof capacityReportSchema>
export type RequestProgress = z.infer<typeof requestProgressSchema>

/** What the edge may say on the same WebSocket. A backend passes over kinds it does not know. */
export const reportReplySchema = z.discriminatedUnion('kind', [
  /** The report of this number has been taken in. */
  z.object({ kind: z.literal('ack'), seq: z.int().min(1) }),
  /** Nobody wants this request's answer any more: as if its client had gone. */
  z.object({ kind: z.literal('cancel'), requestId: name }),
])

export type ReportReply = z.infer<typeof reportReplySchema>

/** Where under the edge's base URL a pool's reports go. */
export function reportsPath(pool: string): string {
  return `/internal/pools/${encodeURIComponent(pool)}/reports`
}

const TOKEN_TYPE = 'sluice-capacity-reports'
const ISSUER = 'sluice-backend'
const AUDIENCE = 'sluice-edge'
const ALGORITHM = 'EdDSA'
const LIFETIME_SECONDS = 60
const CLOCK_TOLERANCE_SECONDS = 5

/** Whose reports a connection carries; each of them has to say the same. */
export interface ReporterClaims {
  readonly pool: string
  readonly backendId: string
  readonly incarnation: string
}

const claimsSchema = z.object({ pool: name, sub: name, inc: name })

/**
 * The token a backend dials with, signed with its record key (Ed25519). Its type keeps it from
 * passing for a usage record, and a record from passing for it. `nowMs` is Unix time.
 */
export function signReportToken(
  claims: ReporterClaims,
  privateKey: CryptoKey,
  nowMs: number,
): Promise<string> {
  const issuedAt = Math.floor(nowMs / 1000)
  return new SignJWT({ pool: claims.pool, inc: claims.incarnation })
    .setProtectedHeader({ alg: ALGORITHM, typ: TOKEN_TYPE })
    .setIssuer(ISSUER)
    .setAudience(AUDIENCE)
    .setSubject(claims.backendId)
    .setIssuedAt(issuedAt)
    .setExpirationTime(issuedAt + LIFETIME_SECONDS)
    .sign(privateKey)
}

/** The token's claims, or null when anything about it is wrong: forged, expired, another pool's. */
export async function verifyReportToken(
  token: string,
  publicKey: CryptoKey,
  expected: { readonly pool: string; readonly nowMs: number },
): Promise<ReporterClaims | null> {
  try {
    const { payload } = await jwtVerify(token, publicKey, {
      algorithms: [ALGORITHM],
      typ: TOKEN_TYPE,
      issuer: ISSUER,
      audience: AUDIENCE,
      currentDate: new Date(expected.nowMs),
      clockTolerance: CLOCK_TOLERANCE_SECONDS,
      requiredClaims: ['exp', 'iat', 'sub', 'pool', 'inc'],
      maxTokenAge: LIFETIME_SECONDS,
    })
    const claims = claimsSchema.parse(payload)
    if (claims.pool !== expected.pool) return null
    return { pool: claims.pool, backendId: claims.sub, incarnation: claims.inc }
  } catch {
    // One answer for whatever is wrong: who guesses learns nothing.
    return null
  }
}

/** A message of a connection as a report, or null when it is none or speaks for someone else. */
export function parseCapacityReport(text: string, from: ReporterClaims): CapacityReport | null {
  try {
    const report = capacityReportSchema.parse(JSON.parse(text))
    const own =
      report.pool === from.pool &&
      report.backendId === from.backendId &&
      report.incarnation === from.incarnation
    return own ? report : null
  } catch {
    // No JSON, or of another shape: the receiver counts it and goes on with the next.
    return null
  }
}
