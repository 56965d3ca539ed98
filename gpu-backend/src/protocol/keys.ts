import type { CryptoKey } from 'jose'
import { exportJWK, generateKeyPair, importJWK } from 'jose'
import { z } from 'zod'

/** Ed25519 keys travel as JWKs: private ones as secrets, public ones as plain settings. */
const publicJwkSchema = z.object({
  kty: z.literal('OKP'),
  crv: z.literal('Ed25519'),
  x: z.string().min(1),
})
const privateJwkSchema = publicJwkSchema.extend({ d: z.string().min(1) })

export type PublicJwk = z.infer<typeof publicJwkSchema>
export type PrivateJwk = z.infer<typeof privateJwkSchema>

async function importEd25519(jwk: PublicJwk | PrivateJwk): Promise<CryptoKey> {
  const key = await importJWK(jwk, 'EdDSA')
  if (key instanceof Uint8Array) throw new TypeError('an Ed25519 JWK cannot be a symmetric key')
  return key
}

/** Reads a JWK given as JSON text. Throws when it is not an Ed25519 key of the wanted kind. */
export function importPublicKey(json: string): Promise<CryptoKey> {
  return importEd25519(publicJwkSchema.parse(JSON.parse(json)))
}

export function importPrivateKey(json: string): Promise<CryptoKey> {
  return importEd25519(privateJwkSchema.parse(JSON.parse(json)))
}

/** A fresh pair as JWKs, for a first local start and for tests. */
export async function generateKeyJwks(): Promise<{ publicJwk: PublicJwk; privateJwk: PrivateJwk }> {
  const pair = await generateKeyPair('EdDSA', { crv: 'Ed25519', extractable: true })
  return {
    publicJwk: publicJwkSchema.parse(await exportJWK(pair.publicKey)),
    privateJwk: privateJwkSchema.parse(await exportJWK(pair.privateKey)),
  }
}
