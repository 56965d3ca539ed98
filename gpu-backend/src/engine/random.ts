/** Numbers in [0, 1). */
export type Random = () => number

/**
 * A generator of its own for each request, so that a seed gives the same text whatever else runs
 * beside it. xoshiro128++ (Blackman and Vigna, 2019) started from splitmix32; `seed` may be any safe
 * integer, all 53 bits of which count.
 */
export function seededRandom(seed: number): Random {
  const state = seedState(seed)
  // 53 bits, the most a double holds: the high 21 of one word above the 32 of another.
  return () => ((next32(state) >>> 11) * 0x1_0000_0000 + next32(state)) / 0x20_0000_0000_0000
}

function seedState(seed: number): Uint32Array {
  const low = seed >>> 0
  const high = Math.floor(seed / 0x1_0000_0000) >>> 0
  let counter = (low ^ Math.imul(high, 0x9e37_79b9)) >>> 0
  const state = Uint32Array.from({ length: 4 }, () => {
    counter = (counter + 0x9e37_79b9) >>> 0
    return mix32(counter)
  })
  // The two halves meet again here, so that no two seeds share a whole state.
  state[0] = (state[0] ?? 0) ^ low
  state[1] = (state[1] ?? 0) ^ high
  // The all-zero state is the one the generator never leaves.
  if (state.every((word) => word === 0)) state[0] = 1
  return state
}

function mix32(value: number): number {
  let mixed = Math.imul(value ^ (value >>> 16), 0x85eb_ca6b)
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2_ae35)
  return (mixed ^ (mixed >>> 16)) >>> 0
}

function next32(state: Uint32Array): number {
  const [a = 0, b = 0, c = 0, d = 0] = state
  const result = (rotateLeft((a + d) >>> 0, 7) + a) >>> 0
  const third = c ^ a
  const fourth = d ^ b
  state[0] = a ^ fourth
  state[1] = b ^ third
  state[2] = third ^ (b << 9)
  state[3] = rotateLeft(fourth >>> 0, 11)
  return result
}

function rotateLeft(value: number, bits: number): number {
  return ((value << bits) | (value >>> (32 - bits))) >>> 0
}
