import { ApiError } from '#protocol/errors.ts'
import { parseJsonBody } from '#protocol/chat-completions.ts'
import { readBytes } from './bytes.ts'

/**
 * The request's body, whole. Throws 413 as soon as more than `bytesMax` have arrived;
 * `content-length` can only make that sooner, since it is the client's word.
 */
export async function readBody(request: Request, bytesMax: number): Promise<Uint8Array> {
  const announced = Number(request.headers.get('content-length') ?? 0)
  const bytes = announced > bytesMax ? null : await readBytes(request.body, bytesMax)
  if (bytes === null) {
    throw new ApiError('request_too_large', `The request body is larger than ${bytesMax} bytes.`)
  }
  return bytes
}

/** The JSON value in `bytes`; 400 when they are not UTF-8 or not JSON. */
export function parseJsonBytes(bytes: Uint8Array): unknown {
  return parseJsonBody(decodeUtf8(bytes))
}

function decodeUtf8(bytes: Uint8Array): string {
  try {
    // A byte order mark stays in the text, where JSON refuses it: the bytes go on as they came,
    // and what is accepted here must be what the backend reads.
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch (cause) {
    throw new ApiError('invalid_request_error', 'The request body is not valid UTF-8.', { cause })
  }
}
