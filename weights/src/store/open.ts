import { fileURLToPath } from 'node:url'
import { openDirectoryStore } from './directory.ts'
import { isSafeKey } from './key.ts'
import { openS3Store } from './s3.ts'
import { StoreError, type Store } from './store.ts'

type Environment = Readonly<Record<string, string | undefined>>

/**
 * Opens the place a URL names: `s3://bucket/prefix`, `file:///path`, or a plain path. S3 takes its
 * endpoint, region and credentials from the variables AWS's own tools read (`AWS_ENDPOINT_URL_S3`,
 * `AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_DEFAULT_REGION`, `AWS_ACCESS_KEY_ID`, …). Opening makes no
 * call.
 */
export function openStore(url: string, env: Environment): Store {
  if (url.startsWith('s3://')) return openS3(url, env)
  if (url.startsWith('file://')) return openDirectoryStore(fileURLToPath(url))
  if (/^[A-Za-z][A-Za-z0-9+.-]+:\/\//.test(url)) {
    throw new StoreError('rejected', url, `${url} is neither s3://bucket/prefix nor a directory`)
  }
  if (url === '') throw new StoreError('rejected', url, 'the location of the checkpoint is empty')
  return openDirectoryStore(url)
}

function openS3(url: string, env: Environment): Store {
  const [, bucket = '', rest = ''] = /^s3:\/\/([^/]*)\/?(.*?)\/?$/.exec(url) ?? []
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{1,62}$/.test(bucket) || (rest !== '' && !isSafeKey(rest))) {
    throw new StoreError('rejected', url, `${url} is not s3://bucket or s3://bucket/prefix`)
  }
  const endpoint = env['AWS_ENDPOINT_URL_S3'] ?? env['AWS_ENDPOINT_URL']
  if (endpoint !== undefined && !URL.canParse(endpoint)) {
    throw new StoreError('rejected', url, `AWS_ENDPOINT_URL ${endpoint} is not a URL`)
  }
  const region = env['AWS_REGION'] ?? env['AWS_DEFAULT_REGION']
  return openS3Store({
    bucket,
    prefix: rest,
    // AWS has no region `auto`, and its S3 answers from us-east-1 with the right one to use.
    region: region ?? (endpoint === undefined ? 'us-east-1' : 'auto'),
    forcePathStyle: endpoint !== undefined,
    ...(endpoint === undefined ? {} : { endpoint }),
    ...credentials(env),
  })
}

function credentials(env: Environment): Pick<Parameters<typeof openS3Store>[0], 'credentials'> {
  const accessKeyId = env['AWS_ACCESS_KEY_ID']
  const secretAccessKey = env['AWS_SECRET_ACCESS_KEY']
  if (accessKeyId === undefined || secretAccessKey === undefined) return {}
  const sessionToken = env['AWS_SESSION_TOKEN']
  const pair = { accessKeyId, secretAccessKey }
  return { credentials: sessionToken === undefined ? pair : { ...pair, sessionToken } }
}
