import { randomBytes } from 'node:crypto'
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { generateKeyJwks } from '#protocol/keys.ts'
import { z } from 'zod'

/**
 * Everything secret about a local stack, made once on first start and kept in its state folder,
 * readable by its owner alone. In production each value is a secret of the platform instead.
 */
const keyPair = z.object({
  publicJwk: z.object({ kty: z.literal('OKP'), crv: z.literal('Ed25519'), x: z.string() }),
  privateJwk: z.object({
    kty: z.literal('OKP'),
    crv: z.literal('Ed25519'),
    x: z.string(),
    d: z.string(),
  }),
})

const secretsSchema = z.object({
  adminToken: z.string().min(32),
  edgeSigning: keyPair,
  recordSigning: keyPair,
  objectStore: z.object({ accessKeyId: z.string(), secretAccessKey: z.string() }),
  /** The key printed at start. Null until the first start has created its tenant. */
  apiKey: z.string().nullable(),
})

export type LocalSecrets = z.infer<typeof secretsSchema>

const FILE_NAME = 'secrets.json'

async function createSecrets(): Promise<LocalSecrets> {
  return {
    adminToken: randomBytes(32).toString('base64url'),
    edgeSigning: await generateKeyJwks(),
    recordSigning: await generateKeyJwks(),
    objectStore: {
      accessKeyId: randomBytes(10).toString('hex'),
      secretAccessKey: randomBytes(32).toString('hex'),
    },
    apiKey: null,
  }
}

/** Writes beside the old file and renames, so that a crash never leaves half a file. */
export async function saveSecrets(stateDir: string, secrets: LocalSecrets): Promise<void> {
  const path = join(stateDir, FILE_NAME)
  const temporary = `${path}.new`
  await writeFile(temporary, `${JSON.stringify(secrets, null, 2)}\n`, { mode: 0o600 })
  await rename(temporary, path)
}

/** The state folder's secrets, made now if there are none. A damaged file is an error: it holds
 * the only copy of keys that the stored state was made with. */
export async function loadOrCreateSecrets(stateDir: string): Promise<LocalSecrets> {
  await mkdir(stateDir, { recursive: true, mode: 0o700 })
  const path = join(stateDir, FILE_NAME)
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null
    throw error
  })
  if (text === null) {
    const secrets = await createSecrets()
    await saveSecrets(stateDir, secrets)
    return secrets
  }
  try {
    return secretsSchema.parse(JSON.parse(text))
  } catch (cause) {
    throw new Error(`${path} is damaged. Delete the folder ${stateDir} to start afresh.`, { cause })
  }
}
