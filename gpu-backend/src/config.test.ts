import { beforeAll, describe, expect, it } from 'vitest'
import { generateKeyJwks } from '#protocol/keys.ts'
import { ConfigError, parseConfig } from './config.ts'

let env: Record<string, string>

beforeAll(async () => {
  const edge = await generateKeyJwks()
  const record = await generateKeyJwks()
  env = {
    SLUICE_CHECKPOINT: 's3://bucket/toy',
    SLUICE_POOL: 'local',
    SLUICE_BACKEND_ID: 'local-1',
    SLUICE_EDGE_URL: 'http://127.0.0.1:8787',
    SLUICE_EDGE_PUBLIC_KEY: JSON.stringify(edge.publicJwk),
    SLUICE_RECORD_PRIVATE_KEY: JSON.stringify(record.privateJwk),
    SLUICE_SPOOL_DIR: '/var/spool/sluice',
  }
})

async function refusal(changes: Record<string, string | undefined>): Promise<string> {
  const error = await parseConfig({ ...env, ...changes }).catch((thrown: unknown) => thrown)
  if (!(error instanceof ConfigError)) throw new Error('not refused', { cause: error })
  expect(error.message).not.toContain('\n')
  return error.message
}

describe('parseConfig', () => {
  it('needs seven variables and has a default for every other', async () => {
    const config = await parseConfig(env)
    expect(config).toMatchObject({
      checkpoint: 's3://bucket/toy',
      device: 'auto',
      gpus: null,
      quantisation: 'on',
      numerics: 'exact',
      pool: 'local',
      backendId: 'local-1',
      host: '127.0.0.1',
      port: 8080,
      metricsPort: null,
      edgeUrl: 'http://127.0.0.1:8787',
      spoolDir: '/var/spool/sluice',
      logLevel: 'info',
      limits: {
        scheduler: {
          runningMax: 8,
          waitingMax: 64,
          waitingTokensMax: 2_097_152,
          stepTokensMax: 512,
        },
        bodyBytesMax: 33_554_432,
        contextTokensMax: null,
        cacheTokens: 4_194_304,
        prefixesMax: 64,
        draftsMax: 1,
        expertSlots: null,
        spill: null,
        spoolRecordsMax: 100_000,
        resumeUnitsPerStreamMax: 4_194_304,
        resumeUnitsMax: 268_435_456,
      },
      timings: {
        keepAliveMs: 1000,
        holdMs: 20_000,
        queueLimitMs: 600_000,
        wholeAnswerLimitMs: 590_000,
        shutdownGraceMs: 10_000,
        idleConnectionMs: 120_000,
        reportIntervalMs: 250,
      },
    })
    expect(Object.isFrozen(config) && Object.isFrozen(config.limits)).toBe(true)
    expect(config.edgePublicKey.type).toBe('public')
    expect(config.recordPrivateKey.type).toBe('private')
  })

  it('shares what there is among the GPUs it is given', async () => {
    const onGpus = { ...env, SLUICE_DEVICE: 'cuda', SLUICE_GPUS: '0,2,1' }
    const config = await parseConfig({ ...onGpus, SLUICE_CACHE_TOKENS: '4096' })
    expect(config.gpus).toEqual([0, 2, 1])
    // A sequence has pages of one GPU alone.
    expect(config.limits).toMatchObject({ cacheTokens: 4096, contextTokensMax: 1280 })
    const one = await parseConfig({ ...onGpus, SLUICE_GPUS: '3', SLUICE_EXPERT_SLOTS: '50' })
    expect([one.gpus, one.limits.contextTokensMax]).toEqual([[3], null])
    const refused = (changes: Record<string, string>) => refusal({ ...onGpus, ...changes })
    expect(await refused({ SLUICE_GPUS: '0,x' })).toBe(
      'SLUICE_GPUS must be numbers of GPUs like 0,1,2,3',
    )
    expect(await refused({ SLUICE_GPUS: '1,1' })).toBe(
      'SLUICE_GPUS must be at most 16 GPUs, each once',
    )
    expect(await refused({ SLUICE_DEVICE: 'auto' })).toBe(
      'SLUICE_GPUS is for SLUICE_DEVICE=cuda alone',
    )
    expect(await refused({ SLUICE_EXPERT_SLOTS: '9' })).toMatch(
      /^SLUICE_EXPERT_SLOTS is for one GPU/,
    )
    expect(await refused({ SLUICE_CACHE_TOKENS: '512' })).toBe(
      'SLUICE_CACHE_TOKENS must be at least 256 for each of 3 GPUs',
    )
  })

  it('names each required variable when it is missing', async () => {
    for (const variable of Object.keys(env)) {
      expect(await refusal({ [variable]: undefined })).toMatch(
        new RegExp(`^${variable} is required: `),
      )
      expect(await refusal({ [variable]: '' })).toBe(`${variable} is empty`)
    }
  })

  it.each([
    ['SLUICE_PORT', '65536', 'must be a whole number from 0 to 65535'],
    ['SLUICE_PORT', '-1', 'must be a whole number from 0 to 65535'],
    ['SLUICE_PORT', '80.5', 'must be a whole number from 0 to 65535'],
    ['SLUICE_MAX_SEQUENCES', '0', 'must be a whole number from 1 to 4096'],
    ['SLUICE_QUANTISATION', 'fp8', 'must be on or off'],
    ['SLUICE_NUMERICS', 'int8', 'must be exact or fast'],
    ['SLUICE_EDGE_URL', 'edge.example', 'must be an http or https URL'],
    ['SLUICE_EDGE_URL', 'file:///etc', 'must be an http or https URL'],
    ['SLUICE_DEVICE', 'tpu', 'must be one of auto, cuda, cpu, reference'],
    ['SLUICE_CACHE_TOKENS', '300', 'must be a multiple of 256'],
    ['SLUICE_STEP_TOKENS', '15', 'must be at least 16, twice SLUICE_MAX_SEQUENCES'],
    ['SLUICE_LOG', 'loud', 'must be one of debug, info, warn, error, silent'],
    ['SLUICE_EDGE_PUBLIC_KEY', '{}', 'is not an Ed25519 public key as JWK JSON'],
  ])('refuses %s=%s', async (variable, value, message) => {
    expect(await refusal({ [variable]: value })).toBe(`${variable} ${message}`)
  })

  it('keeps a broken secret out of what it says', async () => {
    const secret = '{"kty":"OKP","crv":"Ed25519","x":"abc","d":"very-secret'
    const message = await refusal({ SLUICE_RECORD_PRIVATE_KEY: secret })
    expect(message).toBe('SLUICE_RECORD_PRIVATE_KEY is not an Ed25519 private key as JWK JSON')
    const publicOnly = env['SLUICE_EDGE_PUBLIC_KEY'] ?? ''
    expect(await refusal({ SLUICE_RECORD_PRIVATE_KEY: publicOnly })).toBe(message)
  })
})
