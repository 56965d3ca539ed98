/**
 * The alphabet in which byte-level tokenizer files write bytes: printable Latin-1 stands for itself,
 * the other bytes, in order, for the characters from U+0100 on.
 */
const printable = (byte: number): boolean =>
  (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae

function letters(): string[] {
  let next = 0x100
  return Array.from({ length: 256 }, (_, byte) =>
    String.fromCharCode(printable(byte) ? byte : next++),
  )
}

/** Index = byte, value = the character that stands for it. */
export const letterOfByte: readonly string[] = letters()

const byteOfLetter: ReadonlyMap<string, number> = new Map(
  letterOfByte.map((letter, byte) => [letter, byte]),
)

/** The bytes a vocabulary entry stands for, or undefined if a character is not of the alphabet. */
export function bytesOfEntry(entry: string): Uint8Array | undefined {
  const bytes = new Uint8Array(entry.length)
  for (let at = 0; at < entry.length; at += 1) {
    const byte = byteOfLetter.get(entry.charAt(at))
    if (byte === undefined) return undefined
    bytes[at] = byte
  }
  return bytes
}
