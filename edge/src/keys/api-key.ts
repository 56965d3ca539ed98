import { randomLetters, sha256 } from '../bytes.ts'
import type { RandomBytes } from '../bytes.ts'

/**
 * A key reads `sk-sluice-<keyId>-<secret>`, everything after the prefix in the letters `a-z2-7`:
 *
 *   keyId   24 letters: the tenant's id (16 letters, 80 random bits), then 8 for the key (40 bits)
 *   secret  52 letters, 260 random bits
 *
 * The tenant's id stands inside the key's id, so a key leads straight to its tenant's object and
 * no table of all keys exists. Fixed lengths and one alphabet leave one way to write a key, and a
 * double click selects all of its parts.
 */
const TENANT_LETTERS = 16
const KEY_LETTERS = 8
const SECRET_LETTERS = 52

const TENANT_ID = /^[a-z2-7]{16}$/
const KEY_ID = /^[a-z2-7]{24}$/
const API_KEY = /^sk-sluice-([a-z2-7]{24})-([a-z2-7]{52})$/

export interface ApiKey {
  readonly tenantId: string
  readonly keyId: string
  readonly secret: string
}

export function newTenantId(randomBytes: RandomBytes): string {
  return randomLetters(TENANT_LETTERS, randomBytes)
}

export function newApiKey(tenantId: string, randomBytes: RandomBytes): ApiKey {
  const keyId = tenantId + randomLetters(KEY_LETTERS, randomBytes)
  return { tenantId, keyId, secret: randomLetters(SECRET_LETTERS, randomBytes) }
}

export function formatApiKey(key: ApiKey): string {
  return `sk-sluice-${key.keyId}-${key.secret}`
}

/** The parts of a presented key, or null when it is not written as a key is. */
export function parseApiKey(text: string): ApiKey | null {
  const [, keyId, secret] = API_KEY.exec(text) ?? []
  if (keyId === undefined || secret === undefined) return null
  return { tenantId: keyId.slice(0, TENANT_LETTERS), keyId, secret }
}

export function isTenantId(text: string): boolean {
  return TENANT_ID.test(text)
}

export function isKeyId(text: string): boolean {
  return KEY_ID.test(text)
}

/**
 * The only form in which a secret leaves the isolate or is stored. Plain SHA-256, unsalted and
 * fast: slow, salted hashes protect guessable passwords, and 260 random bits cannot be guessed.
 */
export function hashSecret(secret: string): Promise<Uint8Array> {
  return sha256(secret)
}

/** What a key may be called in answers: its last four characters. */
export function lastFour(key: string): string {
  return key.slice(-4)
}
