import { ApiError } from '#protocol/errors.ts'
import { decodeBody, parseJsonBody } from '#protocol/json-body.ts'
import { discardBytes, readBytes } from './bytes.ts'

/**
 * How many times the limit is still read, and thrown away, of a body that is refused. Most clients
 * do not look at an answer that comes while they write: they see the connection close under them.
 */
const DISCARDED_LIMITS = 2

/**
 * The request's body, whole. Throws 413 when it is longer than `bytesMax`, by its announced length
 * or, since that is only the client's word, by what has arrived.
 */
export async function readBody(request: Request, bytesMax: number): Promise<Uint8Array> {
  const length = request.headers.get('content-length')
  // A body that announces its length has that length, or the runtime breaks it off: it comes in one
  // piece, without a turn of the event loop for each that arrives.
  if (length !== null && Number(length) <= bytesMax) {
    return new Uint8Array(await request.arrayBuffer())
  }
  if (request.body === null) return new Uint8Array(0)
  const reader = request.body.getReader()
  const bytes = length === null ? await readBytes(reader, bytesMax) : null
  if (bytes !== null) return bytes
  await discardBytes(reader, DISCARDED_LIMITS * bytesMax)
  throw new ApiError('request_too_large', `The request body is larger than ${bytesMax} bytes.`)
}

/** The JSON value in `bytes`; 400 when they are not UTF-8 or not JSON. */
export function parseJsonBytes(bytes: Uint8Array): unknown {
  return parseJsonBody(decodeBody(bytes))
}
