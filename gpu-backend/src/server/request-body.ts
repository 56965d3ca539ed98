import type { IncomingMessage } from 'node:http'
import { ApiError } from '#protocol/errors.ts'
import { decodeBody } from '#protocol/json-body.ts'

/** The request's body as text. Throws 413 as soon as it is too long, 400 when it is not UTF-8. */
export async function readBody(incoming: IncomingMessage, bytesMax: number): Promise<string> {
  const announced = Number(incoming.headers['content-length'] ?? 0)
  if (announced > bytesMax) throw tooLarge(bytesMax)
  const chunks: Buffer[] = []
  let total = 0
  try {
    // Left open on the way out: the socket still has an answer to carry.
    for await (const chunk of incoming.iterator({ destroyOnReturn: false })) {
      const bytes = chunk as Buffer
      total += bytes.length
      if (total > bytesMax) throw tooLarge(bytesMax)
      chunks.push(bytes)
    }
  } catch (cause) {
    if (cause instanceof ApiError) throw cause
    throw new ApiError('invalid_request_error', 'The request body ended early.', { cause })
  }
  return decodeBody(Buffer.concat(chunks))
}

function tooLarge(bytesMax: number): ApiError {
  return new ApiError('request_too_large', `The request body is larger than ${bytesMax} bytes.`)
}
