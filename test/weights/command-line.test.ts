import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { text } from 'node:stream/consumers'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { loadTensors, openCheckpoint } from '#weights/checkpoint.ts'
import { runWeights } from '#weights/cli/run.ts'
import { openStore } from '#weights/store/open.ts'
import { releaseFiles } from '#weights/toy/files.ts'
import { startObjectStore, type RunningObjectStore } from '../../infra/local/object-store.ts'
import { smallConfig } from '../support/small-config.ts'

const toyHash = 'e0c110439347adfc801ef06673e5436e01e0ecb61c64268f80ed0a5d2042488f'

let directory: string
let server: RunningObjectStore
let env: Readonly<Record<string, string>>

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sluice-weights-'))
  const credentials = { accessKeyId: 'test-key', secretAccessKey: 'test-secret' }
  const stateDir = join(directory, 'r2')
  server = await startObjectStore({ ...credentials, bucket: 'models', stateDir })
  env = {
    AWS_ENDPOINT_URL_S3: server.endpoint,
    AWS_ACCESS_KEY_ID: credentials.accessKeyId,
    AWS_SECRET_ACCESS_KEY: credentials.secretAccessKey,
  }
})
afterAll(async () => {
  await server.close()
  await rm(directory, { recursive: true })
})

async function weights(...args: string[]) {
  const [stdout, stderr] = [new PassThrough(), new PassThrough()]
  const [out, err] = [text(stdout), text(stderr)]
  const code = await runWeights(args, { env, stdout, stderr })
  stdout.end()
  stderr.end()
  return { code, out: await out, err: await err }
}

async function weightsJson(...args: string[]) {
  const { code, out } = await weights(...args, '--json')
  return { code, json: JSON.parse(out) as unknown }
}

describe('npm run weights', () => {
  it('makes the toy, publishes it to a bucket, and finds it sound there', async () => {
    const toy = join(directory, 'toy')
    expect(await weightsJson('toy', '--out', toy)).toEqual({
      code: 0,
      json: { location: toy, fileCount: 14, tensorCount: 508, bytes: 8_236_041 },
    })

    const published = await weightsJson('publish', '--from', toy, '--to', 's3://models/toy')
    expect(published).toMatchObject({
      code: 0,
      json: {
        modelId: 'deepseek-v4-toy',
        release: 'preview',
        checkpointHash: toyHash,
        promptConstants: ['toolsHead', 'toolsTail', 'effortMax', 'responseFormat'],
        keptFiles: [],
      },
    })
    const again = await weightsJson('publish', '--from', toy, '--to', 's3://models/toy')
    expect(again).toMatchObject({ code: 0, json: { checkpointHash: toyHash, uploadedFiles: [] } })

    expect(await weightsJson('verify', 's3://models/toy')).toMatchObject({
      code: 0,
      json: { sound: true, fileCount: 14, tensorCount: 508, faults: [], checkpointHash: toyHash },
    })
    expect(await weightsJson('inspect', 's3://models/toy')).toMatchObject({
      code: 0,
      json: { published: true, modelId: 'deepseek-v4-toy', tensorBytes: 8_128_684 },
    })

    const checkpoint = await openCheckpoint(openStore('s3://models/toy', env))
    const report = await loadTensors(checkpoint, { rangeBytes: 2 ** 18, onTensor: () => {} })
    expect([report.tensorCount, report.tensorBytes]).toEqual([508, 8_128_684])
  })

  it('says its plan before it does anything', async () => {
    const place = join(directory, 'planned')
    await weights('toy', '--out', place)
    const { out, err } = await weights('publish', '--from', place, '--to', place)
    expect(out.split('\n').slice(0, 4)).toEqual([
      `Publish deepseek-v4-toy from ${place}: 5 layers of width 256, 8 experts (fp4), mtp drafts`,
      '  1. read 14 files, 8.2 MB, take the digests of 508 tensors',
      '  2. leave them where they are, reading back what is written',
      '  3. put sluice-manifest.json last',
    ])
    // No terminal, no bar.
    expect(err).toBe('')
  })

  it('lists what is not as it was published', async () => {
    const place = join(directory, 'damaged')
    await weights('toy', '--out', place)
    await weights('publish', '--from', place, '--to', place)
    const shard = join(place, 'model-00006-of-00008.safetensors')
    const bytes = await readFile(shard)
    bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 4
    await writeFile(shard, bytes)
    const { code, json } = await weightsJson('verify', place)
    expect(code).toBe(1)
    expect(json).toMatchObject({
      sound: false,
      faults: [
        { kind: 'file', name: 'model-00006-of-00008.safetensors' },
        { kind: 'tensor', name: 'layers.4.ffn.shared_experts.w3.scale' },
      ],
    })
  })

  it('describes a release that is not published', async () => {
    const place = join(directory, 'unpublished')
    await weights('toy', '--out', place)
    expect(await weightsJson('inspect', place)).toMatchObject({
      code: 0,
      json: { published: false, tensorCount: 508 },
    })
    expect(await weightsJson('verify', place)).toMatchObject({
      code: 1,
      json: { error: { code: 'file_missing', subject: 'sluice-manifest.json' } },
    })
  })

  it.each([
    [[], 'Usage:'],
    [['fetch'], "unknown command 'fetch'"],
    [['publish', '--from', 'x'], "required option '--to <url>'"],
    [['inspect'], "missing required argument 'url'"],
    [['inspect', 'ftp://x/y'], 'neither s3://bucket/prefix nor a directory'],
  ])('called with %j says how it is used', async (args, message) => {
    const { code, err } = await weights(...args)
    expect([code, err.includes(message)]).toEqual([2, true])
  })

  it('helps when asked to', async () => {
    const { code, out } = await weights('--help')
    expect([code, out.includes('publish')]).toEqual([0, true])
  })

  it('wants a name for a model it does not know', async () => {
    const place = join(directory, 'unknown')
    const store = openStore(place, env)
    for (const [name, bytes] of releaseFiles(smallConfig)) await store.put(name, bytes)
    const args = ['publish', '--from', place, '--to', place]
    const { code, err } = await weights(...args)
    expect([code, err.includes('--model-id')]).toEqual([2, true])
    expect(await weightsJson(...args, '--model-id', 'Not A Name')).toMatchObject({
      code: 1,
      json: { error: { code: 'manifest_invalid', subject: 'modelId' } },
    })
    expect(await weightsJson(...args, '--model-id', 'mine')).toMatchObject({
      code: 0,
      json: { modelId: 'mine' },
    })
  })
})
