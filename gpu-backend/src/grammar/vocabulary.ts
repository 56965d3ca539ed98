import { tokensPerWord, type TokenMask } from '../engine/logit-row.ts'
import type { BytesOfToken } from '../text/tokenizer.ts'

/**
 * The vocabulary as a tree of bytes, laid out in the order of a walk from the root: a node's
 * children follow it, and `skip` is where the walk goes on without them. Tokens of the same bytes
 * are neighbours of the same depth.
 */
export class Vocabulary {
  readonly size: number
  readonly endToken: number
  readonly nodeCount: number
  readonly byte: Uint8Array
  /** Bytes from the root, at least 1. */
  readonly depth: Uint16Array
  readonly skip: Int32Array
  /** The token that ends here, or −1. */
  readonly token: Int32Array
  readonly depthMax: number

  /** `size`: of a row of logits; ids from there on are left out. */
  constructor(tokens: Iterable<BytesOfToken>, options: { size: number; endToken: number }) {
    this.size = options.size
    this.endToken = options.endToken
    const sorted = sortedByBytes(
      [...tokens].filter(({ id, bytes }) => id < options.size && bytes.length > 0),
    )
    const nodesMax = sorted.reduce((sum, { bytes }) => sum + bytes.length, 0)
    const [byte, depth] = [new Uint8Array(nodesMax), new Uint16Array(nodesMax)]
    const token = new Int32Array(nodesMax).fill(-1)
    let count = 0
    let before: Uint8Array = new Uint8Array()
    for (const { id, bytes } of sorted) {
      const shared = Math.min(sharedLength(before, bytes), bytes.length - 1)
      for (let at = shared; at < bytes.length; at++) {
        byte[count] = bytes[at] ?? 0
        depth[count] = at + 1
        count += 1
      }
      token[count - 1] = id
      before = bytes
    }
    this.nodeCount = count
    this.byte = byte.slice(0, count)
    this.depth = depth.slice(0, count)
    this.token = token.slice(0, count)
    this.skip = skips(this.depth)
    this.depthMax = this.depth.reduce((most, value) => Math.max(most, value), 0)
  }

  /** No token; the words a row of logits takes. */
  emptyMask(): TokenMask {
    return new Uint32Array(Math.ceil(this.size / tokensPerWord))
  }

  /** The first child of `node` (−1: the root) with this byte, or −1. */
  child(node: number, byte: number): number {
    const end = node < 0 ? this.nodeCount : (this.skip[node] ?? 0)
    for (let at = node + 1; at < end; at = this.skip[at] ?? end) {
      if (this.byte[at] === byte) return at
    }
    return -1
  }
}

export function allow(mask: TokenMask, token: number): void {
  mask[token >>> 5] = (mask[token >>> 5] ?? 0) | (1 << (token & 31))
}

/** As texts of one unit a byte, which compare several times faster. */
function sortedByBytes(tokens: readonly BytesOfToken[]): BytesOfToken[] {
  const keyed = tokens.map((token) => ({ token, key: Buffer.from(token.bytes).toString('latin1') }))
  keyed.sort((a, b) => (a.key === b.key ? a.token.id - b.token.id : a.key < b.key ? -1 : 1))
  return keyed.map(({ token }) => token)
}

function sharedLength(a: Uint8Array, b: Uint8Array): number {
  const most = Math.min(a.length, b.length)
  let length = 0
  while (length < most && a[length] === b[length]) length += 1
  return length
}

/** Where each node's descendants end: at the next node that is no deeper than it. */
function skips(depth: Uint16Array): Int32Array {
  const skip = new Int32Array(depth.length)
  /** The first node from here on of each depth, where no shallower one comes before it. */
  const open: number[] = []
  for (let node = depth.length - 1; node >= 0; node--) {
    const own = depth[node] ?? 0
    let next = depth.length
    for (let level = own; level >= 1; level--) next = Math.min(next, open[level] ?? depth.length)
    skip[node] = next
    open[own] = node
    open.length = own + 1
  }
  return skip
}
