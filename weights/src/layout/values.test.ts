import { describe, expect, it } from 'vitest'
import { checkTensorValues } from './values.ts'
import type { TensorDtype } from './inventory.ts'

const config = { expertCount: 8, expertsPerToken: 2 }
const check = (dtype: TensorDtype, bytes: Uint8Array): string | null =>
  checkTensorValues({ name: 'x', dtype, shape: [bytes.length] }, bytes, config)

const words16 = (...words: number[]) => new Uint8Array(Uint16Array.from(words).buffer)
const floats = (...values: number[]) => new Uint8Array(Float32Array.from(values).buffer)
const ids = (...values: bigint[]) => new Uint8Array(BigInt64Array.from(values).buffer)

describe('tensor values', () => {
  it('are sound when every code is a number', () => {
    expect(check('F8_E8M0', Uint8Array.of(0, 120, 254))).toBe(null)
    expect(check('F8_E4M3', Uint8Array.of(0, 0x7e, 0x80, 0xfe))).toBe(null)
    expect(check('I8', Uint8Array.of(0, 0x7f, 0xff))).toBe(null)
    expect(check('BF16', words16(0, 0x3f80, 0x7f7f, 0xff7f))).toBe(null)
    expect(check('F32', floats(0, -1, 3.4e38, 1e-45))).toBe(null)
    expect(check('I64', ids(0n, 7n, 7n, 0n))).toBe(null)
  })

  it.each([
    ['F8_E8M0', Uint8Array.of(1, 255), 'has the scale byte 255, which means NaN'],
    ['F8_E4M3', Uint8Array.of(1, 0x7f), 'has an e4m3 NaN code'],
    ['F8_E4M3', Uint8Array.of(0xff, 1), 'has an e4m3 NaN code'],
    ['BF16', words16(0, 0x7f80), 'has a value that is not finite'],
    ['BF16', words16(0xffc0, 0), 'has a value that is not finite'],
    ['F32', floats(0, Number.NaN), 'has a value that is not finite'],
    ['F32', floats(-Infinity), 'has a value that is not finite'],
    ['I64', ids(0n, 1n, 2n, 8n), 'routes token 1 to an expert beyond the 8 there are'],
    ['I64', ids(-1n, 1n), 'routes token 0 to an expert beyond the 8 there are'],
    ['I64', ids(1n + 2n ** 32n, 2n), 'routes token 0 to an expert beyond the 8 there are'],
    ['I64', ids(0n, 1n, 3n, 3n), 'routes token 1 to one expert twice'],
  ] as const)('of %s in %j are refused: %s', (dtype, bytes, fault) => {
    expect(check(dtype, bytes)).toBe(fault)
  })

  it('are found in bytes that do not begin at a word', () => {
    const shifted = new Uint8Array(9)
    shifted.set(floats(1, Number.NaN), 1)
    expect(check('F32', shifted.subarray(1))).toBe('has a value that is not finite')
    expect(check('F32', shifted.subarray(1, 5))).toBe(null)
  })
})
