const keyLengthMax = 512

/**
 * Whether a key may be used against any store: segments of letters, digits, dot, dash and
 * underscore, joined by `/`. What this leaves out (`..`, a leading `/`, `\`, `%`, control characters)
 * is how a name in a downloaded file would reach outside the directory it is put in.
 */
export function isSafeKey(key: string): boolean {
  return (
    key.length <= keyLengthMax &&
    key.split('/').every((segment) => /^[A-Za-z0-9._-]+$/.test(segment) && !/^\.+$/.test(segment))
  )
}
