import { createHash } from 'node:crypto'
import { ModelError } from './error.ts'

// A kept prefix as bytes, for storage outside the device:
//   magic, 8 bytes; u32 version; u32 tokens; u32 1 where the draft block's state is there; u32 0
//   SHA-256 of the cache's layout
//   what the cache holds of it
//   SHA-256 of everything before
// Little-endian. Only the cache that understands the layout reads it back: not a format to exchange.

const magic = Buffer.from('sluicepx', 'latin1')
const version = 1
const headerBytes = magic.length + 4 * Uint32Array.BYTES_PER_ELEMENT
const digestBytes = 32

export interface PrefixParts {
  readonly length: number
  readonly drafted: boolean
  readonly contents: Uint8Array
}

/** `layout` says in words what `contents` is made of. */
export function encodePrefix(layout: string, parts: PrefixParts): Uint8Array {
  const header = Buffer.alloc(headerBytes)
  magic.copy(header)
  for (const [index, value] of [version, parts.length, Number(parts.drafted), 0].entries()) {
    header.writeUInt32LE(value, magic.length + 4 * index)
  }
  const from = headerBytes + digestBytes
  const bytes = new Uint8Array(from + parts.contents.length + digestBytes)
  const to = from + parts.contents.length
  bytes.set(header)
  bytes.set(digest(Buffer.from(layout)), headerBytes)
  bytes.set(parts.contents, from)
  bytes.set(digest(bytes.subarray(0, to)), to)
  return bytes
}

/** Throws `ModelError` `prefix_unusable` unless these are the bytes of a prefix of this layout. */
export function decodePrefix(layout: string, bytes: Uint8Array): PrefixParts {
  const all = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const from = headerBytes + digestBytes
  const to = all.length - digestBytes
  refuseUnless(to >= from && all.subarray(0, magic.length).equals(magic), 'they are no prefix')
  refuseUnless(all.subarray(to).equals(digest(all.subarray(0, to))), 'their checksum is wrong')
  const [found = 0, length = 0, drafted = 0] = [0, 1, 2].map((index) =>
    all.readUInt32LE(magic.length + 4 * index),
  )
  refuseUnless(found === version, `they are of version ${found}, not ${version}`)
  refuseUnless(
    all.subarray(headerBytes, from).equals(digest(Buffer.from(layout))),
    'they are of a cache laid out in another way',
  )
  return { length, drafted: drafted === 1, contents: bytes.subarray(from, to) }
}

function digest(bytes: Uint8Array): Buffer {
  return createHash('sha256').update(bytes).digest()
}

function refuseUnless(holds: boolean, fault: string): void {
  if (holds) return
  throw new ModelError('prefix_unusable', `these bytes cannot be made a prefix: ${fault}`)
}
