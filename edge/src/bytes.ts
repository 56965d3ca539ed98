/** RFC 4648's base32 letters, lower case: 32 of them, so five random bits make a letter evenly. */
const LETTERS = 'abcdefghijklmnopqrstuvwxyz234567'

export type RandomBytes = (lengthBytes: number) => Uint8Array

/** `length` random letters of `a-z2-7`, five bits each. */
export function randomLetters(length: number, randomBytes: RandomBytes): string {
  return lettersOf(randomBytes(length))
}

/** One letter a byte, of five of its bits. */
export function lettersOf(bytes: Uint8Array): string {
  let text = ''
  for (const byte of bytes) text += LETTERS.charAt(byte % LETTERS.length)
  return text
}

export async function sha256(text: string): Promise<Uint8Array> {
  return new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text)))
}

/** Compares digests of equal length in time that does not depend on where they differ. */
export function equalInConstantTime(a: Uint8Array, b: Uint8Array): boolean {
  return a.byteLength === b.byteLength && crypto.subtle.timingSafeEqual(a, b)
}

/** All bytes of a body, or null as soon as more than `limitBytes` have arrived. */
export async function readBytes(
  reader: ReadableStreamDefaultReader<Uint8Array>,
  limitBytes: number,
): Promise<Uint8Array | null> {
  const chunks: Uint8Array[] = []
  let sizeBytes = 0
  for (;;) {
    const { done, value } = await reader.read()
    if (done) return concatenate(chunks, sizeBytes)
    sizeBytes += value.byteLength
    if (sizeBytes > limitBytes) return null
    chunks.push(value)
  }
}

/** Reads up to `limitBytes` more and keeps nothing; what is left then is cancelled unread. */
export async function discardBytes(
  reader: ReadableStreamDefaultReader<Uint8Array>,
  limitBytes: number,
): Promise<void> {
  let sizeBytes = 0
  while (sizeBytes <= limitBytes) {
    const { done, value } = await reader.read()
    if (done) return
    sizeBytes += value.byteLength
  }
  await reader.cancel()
}

/** A whole body of at most `limitBytes`, or null; a longer one is cancelled unread. */
export async function readWhole(
  body: ReadableStream<Uint8Array> | null,
  limitBytes: number,
): Promise<Uint8Array | null> {
  if (body === null) return new Uint8Array(0)
  const reader = body.getReader()
  const bytes = await readBytes(reader, limitBytes)
  if (bytes === null) await reader.cancel()
  return bytes
}

function concatenate(chunks: readonly Uint8Array[], sizeBytes: number): Uint8Array {
  const [only] = chunks
  if (only !== undefined && chunks.length === 1) return only
  const joined = new Uint8Array(sizeBytes)
  let offset = 0
  for (const chunk of chunks) {
    joined.set(chunk, offset)
    offset += chunk.byteLength
  }
  return joined
}
