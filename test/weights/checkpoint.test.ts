import { createHash } from 'node:crypto'
import { beforeAll, describe, expect, it } from 'vitest'
import {
  loadTensors,
  openCheckpoint,
  type Checkpoint,
  type ManifestTensor,
} from '#weights/checkpoint.ts'
import { CheckpointError } from '#weights/checkpoint-error.ts'
import { manifestFileName, parseManifest, serializeManifest } from '#weights/manifest.ts'
import { publish } from '#weights/publish.ts'
import { openReleased } from '#weights/released.ts'
import { parseHeader, writeSafetensors, type TensorData } from '#weights/safetensors.ts'
import { MemoryStore } from '#weights/store/memory.ts'
import { singleAttempt } from '#weights/store/retry.ts'
import { toyFiles } from '#weights/toy/files.ts'

let released: ReadonlyMap<string, Uint8Array>
let published: ReadonlyMap<string, Uint8Array>

beforeAll(async () => {
  released = new Map(toyFiles())
  const store = storeOf(released)
  await publish(await openReleased(store), store, { modelId: 'deepseek-v4-toy' })
  published = new Map(store.objects)
})

function storeOf(files: ReadonlyMap<string, Uint8Array>): MemoryStore {
  const store = new MemoryStore()
  for (const [name, bytes] of files) store.objects.set(name, bytes.slice())
  return store
}

const open = (store: MemoryStore): Promise<Checkpoint> =>
  openCheckpoint(store, { retry: singleAttempt })

/** Code and subject of a refusal. */
async function refusal(call: Promise<unknown>): Promise<readonly [string, string]> {
  try {
    await call
  } catch (error) {
    if (error instanceof CheckpointError) return [error.code, error.subject]
    throw error
  }
  throw new Error('nothing was refused')
}

const shard3 = 'model-00003-of-00008.safetensors'

describe('a published checkpoint', () => {
  it('delivers every tensor once, with the bytes that were published', async () => {
    const checkpoint = await open(storeOf(published))
    const digests = new Map<string, string>()
    const report = await loadTensors(checkpoint, {
      onTensor: (tensor, bytes) => {
        expect([bytes.byteOffset, bytes.buffer.byteLength]).toEqual([0, tensor.bytes])
        expect(digests.has(tensor.name)).toBe(false)
        digests.set(tensor.name, createHash('sha256').update(bytes).digest('hex'))
      },
    })
    expect(report).toEqual({
      tensorCount: 508,
      tensorBytes: 8_128_684,
      rangeCount: 8,
      unverifiedCount: 0,
    })
    for (const [name, { sha256 }] of checkpoint.tensors) expect(digests.get(name)).toBe(sha256)
    expect(digests.size).toBe(508)
  })

  it('delivers the same when every tensor takes several reads', async () => {
    const checkpoint = await open(storeOf(published))
    const seen: string[] = []
    const report = await loadTensors(checkpoint, {
      rangeBytes: 5000,
      concurrency: 7,
      onTensor: ({ name }) => void seen.push(name),
    })
    expect(new Set(seen).size).toBe(508)
    expect(report.rangeCount).toBeGreaterThan(8_128_684 / 5000)
  })

  it('delivers those that were asked for, by name or by rule', async () => {
    const checkpoint = await open(storeOf(published))
    const load = async (names: ReadonlySet<string> | ((name: string) => boolean)) => {
      const seen: string[] = []
      await loadTensors(checkpoint, { names, onTensor: ({ name }) => void seen.push(name) })
      return seen.sort()
    }
    expect(await load(new Set(['norm.weight', 'embed.weight']))).toEqual([
      'embed.weight',
      'norm.weight',
    ])
    expect(await load((name) => name.endsWith('tid2eid'))).toEqual([
      'layers.0.ffn.gate.tid2eid',
      'layers.1.ffn.gate.tid2eid',
    ])
    expect(await load(new Set())).toEqual([])
    expect(await refusal(load(new Set(['norm.bias'])))).toEqual(['tensor_missing', 'norm.bias'])
  })

  it('waits for a slow receiver before it reads on', async () => {
    const checkpoint = await open(storeOf(published))
    let running = 0
    let most = 0
    await loadTensors(checkpoint, {
      concurrency: 2,
      names: (name) => name.includes('.attn.wq'),
      onTensor: async () => {
        most = Math.max(most, ++running)
        await Promise.resolve()
        running--
      },
    })
    expect(most).toBeLessThanOrEqual(2)
  })

  it('reports progress up to the total', async () => {
    const checkpoint = await open(storeOf(published))
    const steps: (readonly [number, number])[] = []
    await loadTensors(checkpoint, {
      onTensor: () => {},
      onProgress: (done, total) => void steps.push([done, total]),
    })
    expect(steps.length).toBe(508)
    expect(steps.at(-1)).toEqual([8_128_684, 8_128_684])
    expect(steps.every(([done], index) => done > (steps[index - 1]?.[0] ?? 0))).toBe(true)
  })

  it('passes on what the receiver throws, and delivers nothing after it', async () => {
    const checkpoint = await open(storeOf(published))
    const failure = new RangeError('device memory is full')
    let calls = 0
    const load = loadTensors(checkpoint, {
      rangeBytes: 10_000,
      onTensor: () => {
        if (++calls === 20) throw failure
      },
    })
    await expect(load).rejects.toBe(failure)
    expect(calls).toBe(20)
  })

  it('stops when it is told to', async () => {
    const checkpoint = await open(storeOf(published))
    const abort = new AbortController()
    let calls = 0
    const load = loadTensors(checkpoint, {
      rangeBytes: 10_000,
      signal: abort.signal,
      onTensor: () => {
        if (++calls === 5) abort.abort()
      },
    })
    await expect(load).rejects.toMatchObject({ name: 'StoreError', code: 'aborted' })
    expect(calls).toBe(5)
  })

  it('gives its files after checking them', async () => {
    const store = storeOf(published)
    const checkpoint = await open(store)
    expect(await checkpoint.readFile('tokenizer.json')).toEqual(released.get('tokenizer.json'))
    expect(await refusal(checkpoint.readFile('secrets.json'))).toEqual([
      'file_missing',
      'secrets.json',
    ])
    const bytes = store.objects.get('tokenizer.json')
    if (bytes) bytes[100] = (bytes[100] ?? 0) ^ 32
    expect(await refusal(checkpoint.readFile('tokenizer.json'))).toEqual([
      'file_digest',
      'tokenizer.json',
    ])
  })

  it('names a tensor it does not have', async () => {
    const checkpoint = await open(storeOf(published))
    expect(checkpoint.tensor('norm.weight').shape).toEqual([256])
    expect(() => checkpoint.tensor('nope')).toThrow(CheckpointError)
  })
})

/** Changes one file of the published checkpoint. */
function withFile(name: string, change: (bytes: Uint8Array) => Uint8Array | null): MemoryStore {
  const store = storeOf(published)
  const changed = change(store.objects.get(name) ?? new Uint8Array(0))
  if (changed === null) store.objects.delete(name)
  else store.objects.set(name, changed)
  return store
}

/** Puts a manifest whose tensors were changed, its own hash made to fit. */
async function withTensors(
  change: (tensors: Map<string, ManifestTensor>) => void,
): Promise<MemoryStore> {
  const manifest = parseManifest(published.get(manifestFileName) ?? new Uint8Array(0))
  const tensors = new Map(manifest.tensors)
  change(tensors)
  const { checkpointHash } = await import('#weights/manifest.ts')
  const changed = { ...manifest, tensors }
  const bytes = serializeManifest({ ...changed, checkpointHash: checkpointHash(changed) })
  return withFile(manifestFileName, () => bytes)
}

function setTensor(name: string, change: Partial<ManifestTensor>) {
  return (tensors: Map<string, ManifestTensor>): void => {
    const tensor = tensors.get(name)
    if (tensor === undefined) throw new Error(`no ${name}`)
    tensors.set(name, { ...tensor, ...change })
  }
}

describe('a damaged checkpoint is refused before a tensor is delivered', () => {
  it('when there is no manifest', async () => {
    expect(await refusal(open(storeOf(released)))).toEqual(['file_missing', manifestFileName])
  })

  it.each<[string, (bytes: Uint8Array) => Uint8Array | null, string]>([
    ['is missing', () => null, 'file_missing'],
    ['is cut short', (bytes) => bytes.slice(0, -1), 'file_size'],
    ['is too long', (bytes) => new Uint8Array([...bytes, 0]), 'file_size'],
  ])('when a shard %s', async (_, change, code) => {
    expect(await refusal(open(withFile(shard3, change)))).toEqual([code, shard3])
  })

  it('when the config was changed', async () => {
    const store = withFile('config.json', (bytes) => {
      const text = new TextDecoder().decode(bytes).replace('"index_topk": 8', '"index_topk": 7')
      return new TextEncoder().encode(text)
    })
    expect(await refusal(open(store))).toEqual(['file_digest', 'config.json'])
  })

  it.each<[string, (tensors: Map<string, ManifestTensor>) => void, string, string]>([
    ['lacks a tensor', (tensors) => tensors.delete('norm.weight'), 'tensor_missing', 'norm.weight'],
    [
      'lacks all experts',
      (tensors) => tensors.delete('layers.0.ffn.experts.0.w1.weight'),
      'tensor_missing',
      'layers.0.ffn.experts.0.w1.weight',
    ],
    [
      'has a tensor of another dtype',
      setTensor('layers.0.attn.wq_a.weight', { dtype: 'I8' }),
      'tensor_dtype',
      'layers.0.attn.wq_a.weight',
    ],
    [
      'has a tensor of another shape',
      setTensor('layers.0.attn.wq_a.weight', { shape: [256, 128] }),
      'tensor_shape',
      'layers.0.attn.wq_a.weight',
    ],
    [
      'has a tensor too many',
      (tensors) => {
        const norm = tensors.get('norm.weight')
        if (norm === undefined) throw new Error('no norm')
        tensors.delete('norm.weight')
        tensors.set('norm.weight', norm)
        tensors.set('extra', { ...norm, name: 'extra', offset: 0, bytes: 8, shape: [4] })
      },
      'tensor_unexpected',
      'extra',
    ],
  ])('when the manifest %s', async (_, change, code, subject) => {
    expect(await refusal(open(await withTensors(change)))).toEqual([code, subject])
  })
})

describe('a damaged tensor', () => {
  it.each([
    'embed.weight',
    'layers.1.attn.wkv.weight',
    'layers.3.ffn.experts.7.w2.scale',
    'layers.4.ffn.gate.bias',
    'mtp.0.e_proj.weight',
  ])('is refused by its name: one bit of %s', async (name) => {
    const store = storeOf(published)
    const checkpoint = await open(store)
    const { file, offset, bytes } = checkpoint.tensor(name)
    const shard = store.objects.get(file) ?? new Uint8Array(0)
    const at = offset + (bytes >> 1)
    shard[at] = (shard[at] ?? 0) ^ 8
    const seen: string[] = []
    const load = loadTensors(checkpoint, { onTensor: (tensor) => void seen.push(tensor.name) })
    await expect(load).rejects.toMatchObject({
      code: 'tensor_digest',
      subject: name,
      message: expect.stringContaining(file) as string,
    })
    expect(seen).not.toContain(name)
  })

  it('is refused when the manifest has another digest for it', async () => {
    const store = await withTensors(setTensor('norm.weight', { sha256: '0'.repeat(64) }))
    const load = loadTensors(await open(store), { onTensor: () => {} })
    expect(await refusal(load)).toEqual(['tensor_digest', 'norm.weight'])
  })

  it('is refused when its bytes are those of another place', async () => {
    const store = await withTensors((tensors) => {
      const [a, b] = ['layers.0.hc_attn_base', 'layers.0.hc_ffn_base'].map((name) =>
        tensors.get(name),
      )
      if (a === undefined || b === undefined) throw new Error('no such tensors')
      tensors.set(a.name, { ...a, offset: b.offset })
      tensors.set(b.name, { ...b, offset: a.offset })
    })
    const [code] = await refusal(loadTensors(await open(store), { onTensor: () => {} }))
    expect(code).toBe('tensor_digest')
  })
})

/** The released toy with one tensor's bytes, entry or place changed. */
function releasedWith(
  change: (tensors: TensorData[]) => TensorData[],
  shard = shard3,
): MemoryStore {
  const store = storeOf(released)
  const file = store.objects.get(shard) ?? new Uint8Array(0)
  const length = Number(new DataView(file.buffer).getBigUint64(0, true))
  const entries = parseHeader(file.subarray(8, 8 + length), file.length, shard)
  const tensors = entries.map(({ name, dtype, shape, offset, bytes }) => {
    return { name, dtype, shape, data: file.slice(offset, offset + bytes) }
  })
  store.objects.set(shard, writeSafetensors(change(tensors)))
  return store
}

const layer1 = (name: string) => `layers.1.${name}`

describe('a released checkpoint', () => {
  it('loads without digests, and says so', async () => {
    const checkpoint = await openReleased(storeOf(released))
    const report = await loadTensors(checkpoint, { onTensor: () => {} })
    expect([report.tensorCount, report.unverifiedCount]).toEqual([508, 508])
  })

  it('without expert_dtype goes by the experts’ tensors', async () => {
    const store = storeOf(released)
    const text = new TextDecoder().decode(released.get('config.json'))
    const config = text.replace(/ +"expert_dtype": "fp4",\n/, '')
    expect(config).not.toBe(text)
    store.objects.set('config.json', new TextEncoder().encode(config))
    expect((await openReleased(store)).config.expertDtype).toBe('fp4')
  })

  it('may hold copies of embedding and head in its draft block', async () => {
    const store = releasedWith(
      (tensors) => [
        ...tensors,
        { name: 'mtp.0.emb.tok_emb.weight', dtype: 'BF16', shape: [1], data: new Uint8Array(2) },
      ],
      'model-00008-of-00008.safetensors',
    )
    expect(await refusal(openReleased(store))).toEqual([
      'index_invalid',
      'mtp.0.emb.tok_emb.weight',
    ])
    const index = JSON.parse(
      new TextDecoder().decode(store.objects.get('model.safetensors.index.json')),
    ) as { weight_map: Record<string, string> }
    index.weight_map['mtp.0.emb.tok_emb.weight'] = 'model-00008-of-00008.safetensors'
    store.objects.set(
      'model.safetensors.index.json',
      new TextEncoder().encode(JSON.stringify(index)),
    )
    expect((await openReleased(store)).tensors.size).toBe(509)
  })

  it.each<[string, () => MemoryStore, string, string]>([
    [
      'a tensor is missing from its shard',
      () => releasedWith((t) => t.filter(({ name }) => name !== layer1('attn.attn_sink'))),
      'index_invalid',
      layer1('attn.attn_sink'),
    ],
    [
      'a tensor has another dtype',
      () =>
        releasedWith((t) =>
          t.map((x) =>
            x.name === layer1('attn.wq_a.weight') ? { ...x, dtype: 'I8' as const } : x,
          ),
        ),
      'tensor_dtype',
      layer1('attn.wq_a.weight'),
    ],
    [
      'a tensor has another shape',
      () =>
        releasedWith((t) =>
          t.map((x) =>
            x.name === layer1('attn.wq_a.weight') ? { ...x, shape: x.shape.toReversed() } : x,
          ),
        ),
      'tensor_shape',
      layer1('attn.wq_a.weight'),
    ],
    [
      'a shard is cut short',
      () => {
        const store = storeOf(released)
        store.objects.set(shard3, released.get(shard3)?.slice(0, -3) ?? new Uint8Array(0))
        return store
      },
      'file_size',
      shard3,
    ],
    [
      'a shard is empty',
      () => {
        const store = storeOf(released)
        store.objects.set(shard3, new Uint8Array(0))
        return store
      },
      'header_invalid',
      shard3,
    ],
    [
      'a shard announces a header larger than itself',
      () => {
        const store = storeOf(released)
        store.objects.get(shard3)?.set([255, 255, 255, 255, 0, 0, 0, 0])
        return store
      },
      'header_invalid',
      shard3,
    ],
    [
      'a shard is missing',
      () => {
        const store = storeOf(released)
        store.objects.delete(shard3)
        return store
      },
      'file_missing',
      shard3,
    ],
    [
      'the tokenizer is missing',
      () => {
        const store = storeOf(released)
        store.objects.delete('tokenizer.json')
        return store
      },
      'file_missing',
      'tokenizer.json',
    ],
    [
      'the index puts a tensor elsewhere',
      () => {
        const store = storeOf(released)
        const name = 'model.safetensors.index.json'
        const text = new TextDecoder()
          .decode(released.get(name))
          .replace(/("norm\.weight": "model-0000)7/, '$18')
        store.objects.set(name, new TextEncoder().encode(text))
        return store
      },
      'index_invalid',
      'norm.weight',
    ],
    [
      'the index leads outside',
      () => {
        const store = storeOf(released)
        const name = 'model.safetensors.index.json'
        const text = '{"weight_map": {"embed.weight": "../../etc/passwd"}}'
        store.objects.set(name, new TextEncoder().encode(text))
        return store
      },
      'index_invalid',
      'embed.weight',
    ],
  ])('is refused when %s', async (_, make, code, subject) => {
    expect(await refusal(openReleased(make(), { retry: singleAttempt }))).toEqual([code, subject])
  })

  it.each<[string, (data: Uint8Array) => void]>([
    ['attn.wq_a.scale', (data) => data.fill(255, 0, 1)],
    ['attn.wq_a.weight', (data) => data.fill(0x7f, 5, 6)],
    ['ffn.gate.tid2eid', (data) => data.fill(8, 0, 1)],
    ['attn.attn_sink', (data) => data.set([0, 0, 128, 127])],
  ])('is refused when %s has an impossible value', async (name, damage) => {
    const store = releasedWith((tensors) =>
      tensors.map((tensor) => {
        if (tensor.name === layer1(name)) damage(tensor.data)
        return tensor
      }),
    )
    const checkpoint = await openReleased(store)
    const error = ['tensor_value', layer1(name)]
    expect(await refusal(loadTensors(checkpoint, { onTensor: () => {} }))).toEqual(error)
    const target = new MemoryStore()
    expect(await refusal(publish(checkpoint, target, { modelId: 'x' }))).toEqual(error)
    expect(target.objects.size).toBe(0)
  })
})
