import { ApiError } from './errors.ts'

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

/**
 * A request body's bytes as text. Throws 400 when they are not UTF-8, naming the field they stand in
 * where that can be told.
 *
 * A byte order mark stays in the text, where JSON refuses it: bytes go on as they came, and what one
 * reader accepts must be what the next one reads.
 */
export function decodeBody(bytes: Uint8Array): string {
  try {
    return utf8.decode(bytes)
  } catch (cause) {
    const param = fieldWithReplacement(bytes)
    const what = param === null ? 'The request body' : `'${param}'`
    const message = `${what} is not valid UTF-8.`
    const options = param === null ? { cause } : { cause, param }
    throw new ApiError('invalid_request_error', message, options)
  }
}

/** The body's text as a value, or a 400 that says what JSON lacks. */
export function parseJsonBody(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    // What some serializers write for numbers that JSON does not have.
    const found = /"(\w{1,64})"\s*:\s*(NaN|-?Infinity)\b/.exec(text)
    const [, param, value] = found ?? []
    const refuse = (message: string, options: object): ApiError =>
      new ApiError('invalid_request_error', message, { cause, ...options })
    if (param === undefined) throw refuse('The request body is not valid JSON.', {})
    throw refuse(`'${param}' is ${value ?? ''}, which is no number of JSON.`, { param })
  }
}

/** Fields are looked for this deep: a message's content, a tool's description. */
const depthMax = 6

/** The first string that broken bytes have left a mark in, as a path; null: none can be made out. */
function fieldWithReplacement(bytes: Uint8Array): string | null {
  try {
    const path = pathOfReplacement(JSON.parse(new TextDecoder().decode(bytes)), '', depthMax)
    // A body that is a string itself has no field.
    return path === '' ? null : path
  } catch (error) {
    if (error instanceof SyntaxError) return null
    throw error
  }
}

function pathOfReplacement(value: unknown, path: string, depthLeft: number): string | null {
  if (typeof value === 'string') return value.includes('\ufffd') ? path : null
  if (typeof value !== 'object' || value === null || depthLeft === 0) return null
  for (const [key, member] of Object.entries(value)) {
    const step = Array.isArray(value) ? `[${key}]` : path === '' ? key : `.${key}`
    const found = pathOfReplacement(member, path + step, depthLeft - 1)
    if (found !== null) return found
  }
  return null
}
