import { describe, expect, it } from 'vitest'
import {
  formatApiKey,
  hashSecret,
  isKeyId,
  isTenantId,
  newApiKey,
  newTenantId,
  parseApiKey,
} from './api-key.ts'

const zeros = (lengthBytes: number): Uint8Array => new Uint8Array(lengthBytes)
const TENANT = 'tenantabcdefghij'
const KEY_ID = `${TENANT}keyabcde`
const SECRET = 'secret'.padEnd(52, '7')
const TEXT = `sk-sluice-${KEY_ID}-${SECRET}`

describe('an API key', () => {
  it('names its tenant, and reads back as it was written', () => {
    expect(parseApiKey(TEXT)).toEqual({ tenantId: TENANT, keyId: KEY_ID, secret: SECRET })
    expect(formatApiKey({ tenantId: TENANT, keyId: KEY_ID, secret: SECRET })).toBe(TEXT)
  })

  it('is made of the random bytes it is given: 16 + 8 + 52 letters', () => {
    const drawn: number[] = []
    const counting = (lengthBytes: number): Uint8Array => {
      drawn.push(lengthBytes)
      return zeros(lengthBytes)
    }
    const tenantId = newTenantId(counting)
    const key = newApiKey(tenantId, counting)
    expect(drawn).toEqual([16, 8, 52])
    expect(formatApiKey(key)).toBe(`sk-sluice-${'a'.repeat(24)}-${'a'.repeat(52)}`)
    expect(parseApiKey(formatApiKey(key))).toEqual(key)
  })

  it.each([
    ['empty', ''],
    ['another service’s', 'sk-proj-abcdefgh'],
    ['without its prefix', TEXT.slice('sk-'.length)],
    ['in capitals', TEXT.toUpperCase()],
    ['one letter short', TEXT.slice(0, -1)],
    ['one letter long', `${TEXT}a`],
    ['with a letter outside the alphabet', TEXT.replace('secret', 'secre1')],
    ['with a letter outside ASCII', TEXT.replace('secret', 'secreｔ')],
    ['with a line after it', `${TEXT}\n`],
    ['with a space before it', ` ${TEXT}`],
    ['with its id cut short', TEXT.replace('keyabcde', 'keyabcd')],
    ['huge', TEXT.repeat(10_000)],
  ])('is not one when it is %s', (_how, text) => {
    expect(parseApiKey(text)).toBeNull()
  })

  it('has ids that no other text passes for', () => {
    expect([isTenantId(TENANT), isKeyId(KEY_ID)]).toEqual([true, true])
    for (const text of ['', 'directory', `${TENANT}a`, `${TENANT}\n`, TENANT.toUpperCase()]) {
      expect([isTenantId(text), isKeyId(text)]).toEqual([false, false])
    }
  })

  it('is stored as the SHA-256 of its secret', async () => {
    const digits = Array.from(await hashSecret('abc'), (byte) => byte.toString(16).padStart(2, '0'))
    expect(digits.join('')).toBe('ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad')
  })
})
