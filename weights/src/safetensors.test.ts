import { describe, expect, it } from 'vitest'
import { CheckpointError } from './checkpoint-error.ts'
import { headerLength, parseHeader, prefixBytes, writeSafetensors } from './safetensors.ts'

const tensors = [
  { name: 'a.weight', dtype: 'F32', shape: [2, 3], data: new Uint8Array(24).fill(1) },
  { name: 'b', dtype: 'BF16', shape: [], data: Uint8Array.of(2, 3) },
  { name: 'c', dtype: 'I8', shape: [5], data: Uint8Array.of(4, 5, 6, 7, 8) },
] as const

/** Reads a file as a loader does: length field, then header. */
function read(file: Uint8Array) {
  const length = headerLength(file.subarray(0, prefixBytes), file.length, 'x')
  return parseHeader(file.subarray(prefixBytes, prefixBytes + length), file.length, 'x')
}

/** A file with this header text and so many bytes of data. */
function fileOf(header: string, dataBytes: number): Uint8Array {
  const text = new TextEncoder().encode(header)
  const file = new Uint8Array(prefixBytes + text.length + dataBytes)
  new DataView(file.buffer).setBigUint64(0, BigInt(text.length), true)
  file.set(text, prefixBytes)
  return file
}

function prefix(length: bigint): Uint8Array {
  const bytes = new Uint8Array(8)
  new DataView(bytes.buffer).setBigUint64(0, length, true)
  return bytes
}

function refusal(act: () => unknown): string {
  try {
    act()
  } catch (error) {
    if (error instanceof CheckpointError) return error.code
    throw error
  }
  return 'accepted'
}

const entry = (dtype: string, shape: unknown, offsets: unknown): string =>
  JSON.stringify({ dtype, shape, data_offsets: offsets })

describe('a safetensors file', () => {
  it('gives back the tensors that were written, by offset', () => {
    const file = writeSafetensors(tensors)
    const found = read(file)
    expect(found.map(({ name, dtype, shape, bytes }) => ({ name, dtype, shape, bytes }))).toEqual([
      { name: 'a.weight', dtype: 'F32', shape: [2, 3], bytes: 24 },
      { name: 'b', dtype: 'BF16', shape: [], bytes: 2 },
      { name: 'c', dtype: 'I8', shape: [5], bytes: 5 },
    ])
    for (const [index, { offset, bytes }] of found.entries()) {
      expect(file.slice(offset, offset + bytes)).toEqual(tensors[index]?.data)
    }
  })

  it('begins its data at a multiple of eight', () => {
    expect((read(writeSafetensors(tensors))[0]?.offset ?? 1) % 8).toBe(0)
  })

  it('may list its tensors in any order, and end its header with spaces', () => {
    const header = `{"b":${entry('I8', [1], [2, 3])},"a":${entry('I8', [2], [0, 2])}}   `
    expect(read(fileOf(header, 3)).map(({ name }) => name)).toEqual(['a', 'b'])
  })
})

describe('a hostile length field', () => {
  it.each([
    ['of zero', 0n, 100],
    ['of one', 1n, 100],
    ['one byte beyond the file', 93n, 100],
    ['beyond the ceiling', 100_000_001n, 1e12],
    ['of 2^63', 2n ** 63n, 100],
    ['of 2^64 - 1', 2n ** 64n - 1n, 100],
  ])('%s is refused', (_, length, fileBytes) => {
    expect(refusal(() => headerLength(prefix(length), fileBytes, 'x'))).toBe('header_invalid')
  })

  it('that fills the file exactly is taken', () => {
    expect(headerLength(prefix(92n), 100, 'x')).toBe(92)
  })

  it('cut short is refused', () => {
    expect(refusal(() => headerLength(new Uint8Array(7), 7, 'x'))).toBe('header_invalid')
    expect(refusal(() => headerLength(new Uint8Array(0), 0, 'x'))).toBe('header_invalid')
  })
})

describe('a hostile header', () => {
  const one = (dtype: string, shape: unknown, offsets: unknown): string =>
    `{"a":${entry(dtype, shape, offsets)}}`
  it.each([
    ['is an array', '[]', 0, 'header_invalid'],
    ['begins with a space', ' {}', 0, 'header_invalid'],
    ['is not JSON', '{"a":', 0, 'json_invalid'],
    [
      'has the same tensor twice',
      `{"a":${entry('I8', [1], [0, 1])},"a":${entry('I8', [1], [1, 2])}}`,
      2,
      'json_invalid',
    ],
    ['has the dtype F16', one('F16', [1], [0, 2]), 2, 'header_invalid'],
    ['has the dtype toString', one('toString', [1], [0, 2]), 2, 'header_invalid'],
    ['has no dtype', '{"a":{"shape":[1],"data_offsets":[0,1]}}', 1, 'header_invalid'],
    [
      'has a field too many',
      '{"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1],"x":1}}',
      1,
      'header_invalid',
    ],
    ['has a tensor that is null', '{"a":null}', 0, 'header_invalid'],
    ['has a tensor that is an array', '{"a":["I8",[1],[0,1]]}', 1, 'header_invalid'],
    ['has a negative extent', one('I8', [-1], [0, 1]), 1, 'header_invalid'],
    ['has a fractional extent', one('I8', [1.5], [0, 1]), 1, 'header_invalid'],
    ['has an extent in text', one('I8', ['1'], [0, 1]), 1, 'header_invalid'],
    ['has a shape that is a number', one('I8', 1, [0, 1]), 1, 'header_invalid'],
    ['has nine dimensions', one('I8', [1, 1, 1, 1, 1, 1, 1, 1, 1], [0, 1]), 1, 'header_invalid'],
    [
      'has a shape whose product wraps round',
      one('I8', [2 ** 33, 2 ** 31], [0, 1]),
      1,
      'header_invalid',
    ],
    [
      'has a shape beyond 2^53 in one extent',
      '{"a":{"dtype":"I8","shape":[1e300],"data_offsets":[0,1]}}',
      1,
      'header_invalid',
    ],
    ['has a shape larger than its range', one('F32', [2], [0, 4]), 4, 'header_invalid'],
    ['has a shape smaller than its range', one('F32', [1], [0, 8]), 8, 'header_invalid'],
    ['has an empty shape with a range of nothing', one('I8', [], [0, 0]), 0, 'header_invalid'],
    ['has offsets in reverse', one('I8', [1], [1, 0]), 1, 'header_invalid'],
    ['has a negative offset', one('I8', [2], [-1, 1]), 1, 'header_invalid'],
    ['has three offsets', one('I8', [1], [0, 1, 2]), 1, 'header_invalid'],
    ['has one offset', one('I8', [1], [0]), 1, 'header_invalid'],
    ['has an offset beyond 2^53', one('I8', [1], [2 ** 53, 2 ** 53 + 2]), 1, 'header_invalid'],
    ['begins after a gap', one('I8', [1], [1, 2]), 2, 'header_invalid'],
    [
      'has a gap in the middle',
      `{"a":${entry('I8', [1], [0, 1])},"b":${entry('I8', [1], [2, 3])}}`,
      3,
      'header_invalid',
    ],
    [
      'has tensors that overlap',
      `{"a":${entry('I8', [2], [0, 2])},"b":${entry('I8', [2], [1, 3])}}`,
      3,
      'header_invalid',
    ],
    [
      'has two tensors at one place',
      `{"a":${entry('I8', [2], [0, 2])},"b":${entry('I8', [2], [0, 2])}}`,
      2,
      'header_invalid',
    ],
    ['ends before the file does', one('I8', [1], [0, 1]), 2, 'file_size'],
    ['ends after the file does', one('I8', [2], [0, 2]), 1, 'file_size'],
    [
      'has a tensor named __proto__',
      '{"__proto__":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}',
      1,
      'header_invalid',
    ],
    [
      'hides a tensor inside a __proto__ of a tensor',
      '{"a":{"dtype":"I8","shape":[1],"__proto__":{"data_offsets":[0,1]}}}',
      1,
      'header_invalid',
    ],
    ['has a tensor without a name', `{"":${entry('I8', [1], [0, 1])}}`, 1, 'header_invalid'],
    ['has a name with a slash', `{"../a":${entry('I8', [1], [0, 1])}}`, 1, 'header_invalid'],
    [
      'has a name of 257 letters',
      `{"${'a'.repeat(257)}":${entry('I8', [1], [0, 1])}}`,
      1,
      'header_invalid',
    ],
    ['has metadata that is text', '{"__metadata__":"x"}', 0, 'header_invalid'],
    ['has metadata that is not text', '{"__metadata__":{"format":1}}', 0, 'header_invalid'],
  ])('that %s is refused', (_, header, dataBytes, code) => {
    expect(refusal(() => read(fileOf(header, dataBytes)))).toBe(code)
  })
})
