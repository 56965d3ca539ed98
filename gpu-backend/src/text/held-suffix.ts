/**
 * The longest end of `text` that one of `patterns` could begin with, a whole pattern not counted:
 * what has to wait for more text before it can be told from the pattern.
 */
export function heldSuffix(text: string, patterns: readonly string[]): string {
  const longest = patterns.reduce((length, pattern) => Math.max(length, pattern.length), 0)
  for (let at = Math.max(0, text.length - longest + 1); at < text.length; at += 1) {
    const suffix = text.slice(at)
    if (mayBecome(suffix, patterns)) return suffix
  }
  return ''
}

/** Whether more text could turn `text` into one of the patterns. */
export function mayBecome(text: string, patterns: readonly string[]): boolean {
  return patterns.some((pattern) => pattern.length > text.length && pattern.startsWith(text))
}
