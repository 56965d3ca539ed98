import { CheckpointError } from './checkpoint-error.ts'

const depthMax = 32

/**
 * Parses JSON from bytes. What JSON.parse lets pass is refused: broken UTF-8, a byte-order mark,
 * a key given twice (of which it would silently keep the last), nesting beyond any file of ours.
 * `file` names the source in errors.
 */
export function parseJson(bytes: Uint8Array, file: string): unknown {
  let text: string
  let value: unknown
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
    value = JSON.parse(text)
  } catch (cause) {
    throw new CheckpointError('json_invalid', file, `${file} is not JSON: ${String(cause)}`, {
      cause,
    })
  }
  refuseDuplicateKeys(text, file)
  return value
}

/** A string (with the colon after it, if it is a key) or a bracket; valid JSON has no other quotes. */
const token = /"(?:[^"\\]|\\.)*"(\s*:)?|[{}[\]]/g

/** `text` has been through JSON.parse, so that only strings and brackets need telling apart. */
function refuseDuplicateKeys(text: string, file: string): void {
  const open: (Set<string> | null)[] = []
  for (const [found, colon] of text.matchAll(token)) {
    if (found === '{' || found === '[') {
      open.push(found === '{' ? new Set() : null)
      if (open.length > depthMax) {
        throw new CheckpointError('json_invalid', file, `${file} nests deeper than ${depthMax}`)
      }
    } else if (found === '}' || found === ']') {
      open.pop()
    } else if (colon !== undefined) {
      const key: unknown = JSON.parse(found.slice(0, found.length - colon.length))
      const keys = open.at(-1)
      if (typeof key !== 'string' || keys === null || keys === undefined) continue
      if (keys.has(key)) {
        throw new CheckpointError('json_invalid', file, `${file} has the key '${key}' twice`)
      }
      keys.add(key)
    }
  }
}

/** The object's entries, own keys only; null if `value` is no object. */
export function objectEntries(value: unknown): readonly (readonly [string, unknown])[] | null {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return null
  return Object.entries(value)
}
