import { createHash } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { CheckpointError } from './checkpoint-error.ts'
import {
  checkpointHash,
  parseManifest,
  serializeManifest,
  type Manifest,
  type ManifestTensor,
} from './manifest.ts'

const sha = (text: string): string => createHash('sha256').update(text).digest('hex')
const tensor = (name: string, offset: number): readonly [string, ManifestTensor] => [
  name,
  { name, file: 's1', offset, bytes: 8, dtype: 'F32', shape: [2], sha256: sha(name) },
]

const content = {
  formatVersion: 1,
  modelId: 'deepseek-v4-test',
  release: 'preview',
  configFile: 'config.json',
  tokenizerFile: 'tokenizer.json',
  promptConstants: { toolsHead: 'H', effortMax: 'É\n' },
  files: [
    { name: 'config.json', sizeBytes: 10, sha256: sha('config') },
    { name: 'tokenizer.json', sizeBytes: 20, sha256: sha('tokenizer') },
    { name: 's1', sizeBytes: 100, sha256: sha('shard') },
  ],
  tensors: new Map([tensor('a.weight', 40), tensor('b', 48)]),
} as const satisfies Omit<Manifest, 'checkpointHash'>
const manifest: Manifest = { ...content, checkpointHash: checkpointHash(content) }

type Json = { [key: string]: unknown }

/** The manifest's JSON after a change, as bytes. */
function changed(change: (json: Json) => void): Uint8Array {
  const json = JSON.parse(new TextDecoder().decode(serializeManifest(manifest))) as Json
  change(json)
  return new TextEncoder().encode(JSON.stringify(json))
}

function refusal(bytes: Uint8Array): readonly [string, string] {
  try {
    parseManifest(bytes)
  } catch (error) {
    if (error instanceof CheckpointError) return [error.code, error.subject]
    throw error
  }
  throw new Error('nothing was refused')
}

const inTensor = (name: string, key: string, value: unknown) => (json: Json) => {
  const tensors = json['tensors'] as Record<string, Json>
  tensors[name] = { ...tensors[name], [key]: value }
}

describe('a manifest', () => {
  it('comes back as it was written', () => {
    expect(parseManifest(serializeManifest(manifest))).toEqual(manifest)
  })

  it.each<[string, (json: Json) => void, string]>([
    ['of a later format', (json) => (json['formatVersion'] = 2), 'formatVersion'],
    ['with a key it should not have', (json) => (json['extra'] = 1), ''],
    ['with an unusable model id', (json) => (json['modelId'] = '../x'), 'modelId'],
    ['of an unknown release', (json) => (json['release'] = '0901'), 'release'],
    ['without its config among the files', (json) => (json['configFile'] = 'c.json'), 'configFile'],
    ['without its tokenizer', (json) => (json['tokenizerFile'] = 't.json'), 'tokenizerFile'],
    ['with a file outside', (json) => (json['configFile'] = '../config.json'), 'configFile'],
    [
      'with a file twice',
      (json) => (json['files'] = [...manifest.files, manifest.files[0]]),
      'files',
    ],
    [
      'with a digest in capitals',
      (json) => ((json['files'] as Json[])[0] = { ...manifest.files[0], sha256: 'A'.repeat(64) }),
      'files.0.sha256',
    ],
    [
      'with a prompt constant it does not know',
      (json) => (json['promptConstants'] = { greeting: 'x' }),
      'promptConstants',
    ],
    ['with changed prompt constants', (json) => (json['promptConstants'] = {}), 'checkpointHash'],
    ['with a changed release', (json) => (json['release'] = '0731'), 'checkpointHash'],
    ['with another hash', (json) => (json['checkpointHash'] = sha('x')), 'checkpointHash'],
    ['with another tensor digest', inTensor('b', 'sha256', sha('x')), 'checkpointHash'],
    ['without tensors', (json) => (json['tensors'] = []), 'tensors'],
    ['with a tensor of a file it lacks', inTensor('b', 'file', 's2'), 'b'],
    ['with a tensor beyond its file', inTensor('b', 'offset', 93), 'b'],
    ['with a tensor at 2^53', inTensor('b', 'offset', 2 ** 53 - 1), 'b'],
    ['with a tensor over another', inTensor('b', 'offset', 47), 'b'],
    ['with a tensor of the wrong length', inTensor('b', 'bytes', 9), 'b'],
    ['with a tensor of no length', inTensor('b', 'shape', [0]), 'b'],
    ['with a shape beyond 2^53', inTensor('b', 'shape', [2 ** 40, 2 ** 40]), 'b'],
    ['with an unknown dtype', inTensor('b', 'dtype', 'F16'), 'b'],
    ['with an unusable tensor name', inTensor('../b', 'file', 's1'), '../b'],
  ])('%s is refused', (_, change, subject) => {
    expect(refusal(changed(change))).toEqual(['manifest_invalid', subject])
  })

  it('with a tensor named __proto__ is refused', () => {
    const text = new TextDecoder().decode(serializeManifest(manifest))
    const hostile = text.replace('"b":{', '"__proto__":{')
    expect(refusal(new TextEncoder().encode(hostile))).toEqual(['manifest_invalid', '__proto__'])
  })

  it('with a tensor twice is refused', () => {
    const text = new TextDecoder().decode(serializeManifest(manifest))
    const hostile = text.replace('"b":{', '"a.weight":{')
    expect(refusal(new TextEncoder().encode(hostile))[0]).toBe('json_invalid')
  })
})

describe('the checkpoint hash', () => {
  const hashOf = (change: Partial<typeof content> | object): string =>
    checkpointHash({ ...content, ...change } as typeof content)

  it('does not depend on the name, the order or the sharding', () => {
    const files = [
      { name: 'config.json', sizeBytes: 10, sha256: sha('config') },
      { name: 'tokenizer.json', sizeBytes: 20, sha256: sha('tokenizer') },
      { name: 'other', sizeBytes: 7, sha256: sha('other') },
    ]
    const moved = [...content.tensors].reverse().map(([name, entry]) => {
      return [name, { ...entry, file: 'other', offset: entry.offset + 8 }] as const
    })
    expect(hashOf({ modelId: 'x', files, tensors: new Map(moved) })).toBe(manifest.checkpointHash)
  })

  it.each([
    ['the release', { release: '0731' }],
    ['a prompt constant', { promptConstants: { toolsHead: 'H', effortMax: 'E' } }],
    ['the role of a prompt constant', { promptConstants: { toolsTail: 'H', effortMax: 'É\n' } }],
    ['the config', { configFile: 's1' }],
    ['the tokenizer', { tokenizerFile: 's1' }],
    ['a missing tensor', { tensors: new Map([tensor('b', 48)]) }],
    ['a renamed tensor', { tensors: new Map([tensor('a.weight', 40), tensor('c', 48)]) }],
  ])('depends on %s', (_, change) => {
    expect(hashOf(change)).not.toBe(manifest.checkpointHash)
  })
})
