import { ApiError, errorEvent } from '#protocol/errors.ts'

/**
 * How a body ended: passed on whole; cut off on the backend's side; or given up, because the client
 * has gone.
 */
export type BodyEnd = 'complete' | 'broken' | 'abandoned'

export interface PumpOptions {
  readonly body: ReadableStream<Uint8Array>
  /** Of an `IdentityTransformStream`, whose other end is the response's body. */
  readonly writable: WritableStream<Uint8Array>
  /** What the client is told when the backend's stream breaks; null breaks the client's too. */
  readonly farewell: string | null
  /** The client's. */
  readonly signal: AbortSignal
}

export const STREAM_HEADERS = {
  'content-type': 'text/event-stream; charset=utf-8',
  'cache-control': 'no-cache',
  'x-accel-buffering': 'no',
}

/**
 * Written where a backend's stream broke off. The blank line first ends whatever event was cut in
 * the middle (between events it means nothing), so that this one stands by itself.
 */
export const BROKEN_STREAM = `\n\n${errorEvent(
  new ApiError(
    'server_is_overloaded',
    'The backend stopped before finishing this answer. Try again.',
  ),
)}`

/**
 * Passes a body on until it ends. `pipeTo` between two of the runtime's own streams moves bytes
 * without entering JavaScript, so this costs a chunk nothing; script runs once, at the end. With
 * `preventAbort` a cut backend stream leaves the client's end open, and the farewell can be written
 * where the bytes stopped.
 */
export async function pumpBody(options: PumpOptions): Promise<BodyEnd> {
  const { body, writable, farewell, signal } = options
  try {
    const keepOpen = farewell !== null
    await body.pipeTo(writable, { preventClose: keepOpen, preventAbort: keepOpen })
    if (keepOpen) await writable.close()
    return 'complete'
  } catch {
    // Either side may have failed; the reason is of no use to anyone but the next two lines.
    if (signal.aborted) return 'abandoned'
    if (farewell === null) return 'broken'
    return await sayFarewell(writable, farewell)
  }
}

async function sayFarewell(
  writable: WritableStream<Uint8Array>,
  farewell: string,
): Promise<BodyEnd> {
  try {
    const writer = writable.getWriter()
    await writer.write(new TextEncoder().encode(farewell))
    await writer.close()
    return 'broken'
  } catch {
    // Nobody reads any more: it was the client's side that failed.
    return 'abandoned'
  }
}
