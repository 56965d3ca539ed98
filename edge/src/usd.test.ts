import { describe, expect, it } from 'vitest'
import { formatCents, formatUsd, parseUsd } from './usd.ts'

describe('parseUsd', () => {
  it.each([
    ['0', 0n],
    ['1', 1_000_000_000_000n],
    ['1.00', 1_000_000_000_000n],
    ['0.000000000001', 1n],
    ['12.5', 12_500_000_000_000n],
    ['1000000', 1_000_000_000_000_000_000n],
  ])('reads %s', (text, pico) => {
    expect(parseUsd(text)).toBe(pico)
  })

  it.each([
    '',
    '-1',
    '+1',
    '1.',
    '.5',
    '1e3',
    '1,5',
    ' 1',
    '0.0000000000001',
    '1000000.01',
    '12345678',
  ])('refuses %s', (text) => {
    expect(parseUsd(text)).toBeNull()
  })
})

describe('formatUsd', () => {
  it.each([
    [0n, '0'],
    [1n, '0.000000000001'],
    [280_000n, '0.00000028'],
    [-3_000_000_000_000n, '-3'],
    [-1_500_000_000_000n, '-1.5'],
    [9_007_199_254_740_993n, '9007.199254740993'],
  ])('writes %s pico-dollars in full', (pico, text) => {
    expect(formatUsd(pico)).toBe(text)
  })
})

describe('formatCents', () => {
  it.each([
    [0n, '0.00'],
    [9_999_999_999n, '0.00'],
    [12_349_999_000_000n, '12.34'],
    [-1n, '-0.01'],
    [-1_234_560_000_000n, '-1.24'],
    [-1_230_000_000_000n, '-1.23'],
  ])('rounds %s pico-dollars down to cents', (pico, text) => {
    expect(formatCents(pico)).toBe(text)
  })
})
