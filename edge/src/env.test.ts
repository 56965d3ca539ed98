import { describe, expect, it } from 'vitest'
import { generateKeyJwks } from '#protocol/keys.ts'
import { parseEnv, SettingsError, sluicePools } from './env.ts'
import type { Env } from './env.ts'

const { publicJwk, privateJwk } = await generateKeyJwks()
const pool = {
  id: 'pool-a',
  url: 'https://gpu.test/base/',
  models: ['m'],
  recordPublicKey: publicJwk,
}

function envWith(over: Record<string, string | undefined>): Env {
  return {
    POOLS: JSON.stringify([pool]),
    EDGE_SIGNING_KEY: JSON.stringify(privateJwk),
    ADMIN_TOKEN: 'x'.repeat(32),
    ...over,
  } as Env
}

function poolsWith(over: object): { POOLS: string } {
  return { POOLS: JSON.stringify([{ ...pool, ...over }]) }
}

describe('parseEnv', () => {
  it('gives typed settings, with defaults for what may be left out', async () => {
    const settings = await parseEnv(envWith({}))
    expect(settings).toMatchObject({
      pools: [
        {
          kind: 'sluice',
          id: 'pool-a',
          url: 'https://gpu.test/base',
          backendUrls: ['https://gpu.test/base'],
          models: ['m'],
        },
      ],
      adminToken: 'x'.repeat(32),
      bodyBytesMax: 16_777_216,
      backendHeadersTimeoutMs: 30_000,
    })
    expect(settings.signingKey.type).toBe('private')
    expect(sluicePools(settings.pools)[0]?.recordPublicKey.type).toBe('public')
  })

  it('takes pools of other engines, with their keys, and backends behind one address', async () => {
    const backendUrls = ['https://gpu-1.test/', 'https://gpu-2.test']
    const foreign = { id: 'vllm', url: 'https://vllm.test/', models: ['m'], kind: 'openai' }
    const env = envWith({
      POOLS: JSON.stringify([{ ...pool, kind: 'sluice', backendUrls }, foreign]),
      POOL_API_KEYS: '{"vllm":"the engine’s key"}',
    })
    const { pools } = await parseEnv(env)
    const [own, other] = pools
    expect(own).toMatchObject({ backendUrls: ['https://gpu-1.test', 'https://gpu-2.test'] })
    expect(other).toEqual({
      kind: 'openai',
      id: 'vllm',
      url: 'https://vllm.test',
      models: ['m'],
      apiKey: 'the engine’s key',
    })
    expect(sluicePools(pools)).toEqual([own])
  })

  it('takes the numbers it is given', async () => {
    const env = envWith({ MAX_BODY_BYTES: '1024', BACKEND_HEADERS_TIMEOUT_MS: '500' })
    expect(await parseEnv(env)).toMatchObject({
      bodyBytesMax: 1024,
      backendHeadersTimeoutMs: 500,
    })
  })

  it.each([
    ['ADMIN_TOKEN', { ADMIN_TOKEN: undefined }, 'is not set'],
    ['ADMIN_TOKEN', { ADMIN_TOKEN: 'secret-but-short' }, 'is shorter than 32 characters'],
    ['POOLS', { POOLS: '' }, 'is not set'],
    ['POOLS', { POOLS: '[secret' }, 'is not valid JSON'],
    ['POOLS', poolsWith({ url: 'ftp://secret' }), '[0].url: must be an http or https URL'],
    ['POOLS', poolsWith({ id: 'secret id' }), '[0].id: must be 1 to 64 of a-z, 0-9 and -'],
    ['POOLS', poolsWith({ kind: 'secret' }), "[0].kind: must be 'sluice' or 'openai'"],
    ['POOL_API_KEYS', { POOL_API_KEYS: '["secret"]' }, 'must be an object of pool ids and keys'],
    ['POOLS', { POOLS: JSON.stringify([pool, pool]) }, 'is invalid: names a pool twice'],
    [
      'POOLS',
      poolsWith({ recordPublicKey: { ...publicJwk, crv: 'secret' } }),
      '[0].recordPublicKey is not an Ed25519 public JWK',
    ],
    ['EDGE_SIGNING_KEY', { EDGE_SIGNING_KEY: 'secret' }, 'is not valid JSON'],
    [
      'EDGE_SIGNING_KEY',
      { EDGE_SIGNING_KEY: JSON.stringify(publicJwk) },
      'is not an Ed25519 private JWK',
    ],
    ['MAX_BODY_BYTES', { MAX_BODY_BYTES: '-1' }, 'must be a whole number of at least 1'],
    ['MAX_BODY_BYTES', { MAX_BODY_BYTES: '1e9' }, 'must be a whole number of at least 1'],
  ])('names %s when it is wrong, and never its value: %#', async (variable, over, problem) => {
    const failure = await parseEnv(envWith(over)).catch((error: unknown) => error)
    expect(failure).toBeInstanceOf(SettingsError)
    const message = failure instanceof SettingsError ? failure.message : ''
    expect(message).toBe(`${variable} ${problem}`)
    expect(message).not.toContain('secret')
  })
})
