import { mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { loadOrCreateSecrets, saveSecrets } from './secrets.ts'

let stateDir: string

beforeEach(async () => {
  stateDir = await mkdtemp(join(tmpdir(), 'sluice-secrets-'))
})

afterEach(() => rm(stateDir, { recursive: true }))

describe('loadOrCreateSecrets', () => {
  it('gives the same secrets on every later start', async () => {
    const first = await loadOrCreateSecrets(stateDir)
    expect(await loadOrCreateSecrets(stateDir)).toEqual(first)
  })

  it('makes different secrets for different folders', async () => {
    const one = await loadOrCreateSecrets(join(stateDir, 'one'))
    const two = await loadOrCreateSecrets(join(stateDir, 'two'))
    expect(one.adminToken).not.toBe(two.adminToken)
    expect(one.edgeSigning.privateJwk.d).not.toBe(two.edgeSigning.privateJwk.d)
  })

  it('keeps the file from other users', async () => {
    await loadOrCreateSecrets(stateDir)
    const { mode } = await stat(join(stateDir, 'secrets.json'))
    expect(mode & 0o777).toBe(0o600)
  })

  it('refuses a damaged file and does not replace it', async () => {
    await writeFile(join(stateDir, 'secrets.json'), '{"adminToken":')
    await expect(loadOrCreateSecrets(stateDir)).rejects.toThrow(/secrets\.json is damaged/)
    await expect(loadOrCreateSecrets(stateDir)).rejects.toThrow(/secrets\.json is damaged/)
  })
})

describe('saveSecrets', () => {
  it('leaves one file behind, holding what was saved', async () => {
    const secrets = await loadOrCreateSecrets(stateDir)
    await saveSecrets(stateDir, { ...secrets, apiKey: 'sk-sluice-a-b' })
    expect(await readdir(stateDir)).toEqual(['secrets.json'])
    expect((await loadOrCreateSecrets(stateDir)).apiKey).toBe('sk-sluice-a-b')
  })
})
