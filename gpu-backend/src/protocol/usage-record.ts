import type { CryptoKey } from 'jose'
import { base64url, CompactSign, compactVerify } from 'jose'
import { z } from 'zod'

/**
 * What one request cost, as the backend that ran it saw it. The record is the truth for billing:
 * it is on the backend's disk before the stream ends, is pushed until the edge acknowledges it, and
 * is applied once per request id however often it arrives.
 */
const count = z.int().min(0)
const unixMs = z.int().min(0)
const name = z.string().min(1).max(256)

export const usageRecordSchema = z
  .object({
    version: z.literal(1),
    requestId: name,
    tenantId: name,
    keyId: name,
    pool: name,
    backendId: name,
    model: name,
    checkpointHash: name,
    /** Of the prompt that was accepted. */
    promptTokens: count,
    /** Of those, the ones that a prefix kept from before stood in for. */
    cachedTokens: count,
    /** Of the prompt, tokens known to have run through the model. Absent in early records. */
    prefilledTokens: count.optional(),
    /** Tokens generated, reasoning included. */
    completionTokens: count,
    reasoningTokens: count,
    /**
     * Of those generated, how many had been written to the client's stream when it ended, or to the
     * buffer kept for a client that may resume.
     */
    deliveredTokens: count,
    outcome: z.enum(['stop', 'length', 'tool_calls', 'cancelled', 'failed']),
    acceptedAtMs: unixMs,
    /** When it left the queue; null: it never did. Absent in early records. */
    startedAtMs: unixMs.nullable().optional(),
    firstTokenAtMs: unixMs.nullable(),
    finishedAtMs: unixMs,
  })
  .refine((record) => record.cachedTokens <= record.promptTokens, {
    path: ['cachedTokens'],
    message: 'cachedTokens may not exceed promptTokens',
  })
  .refine(
    ({ prefilledTokens = 0, cachedTokens, promptTokens }) =>
      prefilledTokens + cachedTokens <= promptTokens,
    {
      path: ['prefilledTokens'],
      message: 'prefilledTokens and cachedTokens may not exceed promptTokens',
    },
  )
  .refine((record) => record.reasoningTokens <= record.completionTokens, {
    path: ['reasoningTokens'],
    message: 'reasoningTokens may not exceed completionTokens',
  })
  .refine((record) => record.deliveredTokens <= record.completionTokens, {
    path: ['deliveredTokens'],
    message: 'deliveredTokens may not exceed completionTokens',
  })

export type UsageRecord = z.infer<typeof usageRecordSchema>

const RECORD_TYPE = 'sluice-usage-record'
const ALGORITHM = 'EdDSA'

/** The record as a compact JWS (EdDSA) under the backend's private key. */
export function signUsageRecord(record: UsageRecord, privateKey: CryptoKey): Promise<string> {
  return new CompactSign(new TextEncoder().encode(JSON.stringify(record)))
    .setProtectedHeader({ alg: ALGORITHM, typ: RECORD_TYPE })
    .sign(privateKey)
}

/** The record inside `jws`, or null when signature, type or content are not what they must be. */
export async function verifyUsageRecord(
  jws: string,
  publicKey: CryptoKey,
): Promise<UsageRecord | null> {
  try {
    const { payload, protectedHeader } = await compactVerify(jws, publicKey, {
      algorithms: [ALGORITHM],
    })
    if (protectedHeader.typ !== RECORD_TYPE) return null
    return usageRecordSchema.parse(JSON.parse(new TextDecoder().decode(payload)))
  } catch {
    // Forged, malformed or from another version: refused alike, the sender keeps its copy.
    return null
  }
}

/**
 * The record inside a JWS of one's own, read back without checking its signature; null when there is
 * none. For what others send, use `verifyUsageRecord`.
 */
export function unverifiedRecord(jws: string): UsageRecord | null {
  try {
    const payload = base64url.decode(jws.split('.')[1] ?? '')
    return usageRecordSchema.parse(JSON.parse(new TextDecoder().decode(payload)))
  } catch {
    // Not one of ours after all.
    return null
  }
}

/** `POST /internal/usage-records`: what a backend pushes and what it may forget afterwards. */
export const usageRecordBatchSchema = z.object({ records: z.array(z.string()).min(1).max(256) })

export const usageRecordAckSchema = z.object({
  /** Indices into the batch that are applied (now or earlier) and need not be sent again. */
  acknowledged: z.array(z.int().min(0)),
  /** Indices that can never be applied, with the reason; the sender sets them aside. */
  rejected: z.array(z.object({ index: z.int().min(0), reason: z.string() })),
})

export type UsageRecordAck = z.infer<typeof usageRecordAckSchema>

/** The most one call reads or acknowledges. */
export const RECORDS_READ_MAX = 256

/**
 * `GET /v1/records?after=CURSOR&limit=N`: records not acknowledged yet, oldest first. A cursor is
 * opaque; one of another spool (the disk was replaced) reads from the beginning.
 */
export const recordPageSchema = z.object({
  records: z.array(z.object({ cursor: z.string(), requestId: name, jws: z.string() })),
  /** Where to go on; equal to the one that was sent when nothing has come since. */
  next: z.string(),
})

/** `POST /v1/records/ack`: the edge has these; unknown cursors are passed over. */
export const recordAckSchema = z.object({
  cursors: z.array(z.string().max(128)).min(1).max(RECORDS_READ_MAX),
})

/** `GET /v1/records/{requestId}`: what a backend knows of a request that was sent to it. */
export const recordLookupSchema = z.discriminatedUnion('status', [
  z.object({ status: z.literal('under_way') }),
  z.object({ status: z.literal('recorded'), jws: z.string() }),
  /** The edge has acknowledged its record already. */
  z.object({ status: z.literal('acknowledged') }),
  /** Never seen, or refused, or too long ago to remember: nothing will be recorded for it. */
  z.object({ status: z.literal('unknown') }),
])

export type RecordPage = z.infer<typeof recordPageSchema>
export type RecordLookup = z.infer<typeof recordLookupSchema>
