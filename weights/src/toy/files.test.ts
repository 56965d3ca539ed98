import { hash } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { openReleased } from '../released.ts'
import { MemoryStore } from '../store/memory.ts'
import { toyFiles, writeToy } from './files.ts'
import { openToyCheckpoint } from './open-toy.ts'

describe('the toy checkpoint', () => {
  it('is laid out as the released ones are: embedding, a shard a layer, head, draft block', async () => {
    const store = new MemoryStore()
    await writeToy(store)
    const released = await openReleased(store)
    expect(released.shards.map(({ key }) => key)).toEqual(
      [1, 2, 3, 4, 5, 6, 7, 8].map((number) => `model-0000${number}-of-00008.safetensors`),
    )
    const shardOf = (name: string): string | undefined =>
      released.tensors.get(name)?.file.slice(6, 11)
    expect(
      [
        'embed.weight',
        'layers.0.attn_norm.weight',
        'layers.4.ffn.gate.bias',
        'head.weight',
        'norm.weight',
        'hc_head_scale',
        'mtp.0.norm.weight',
      ].map(shardOf),
    ).toEqual(['00001', '00002', '00006', '00007', '00007', '00007', '00008'])
  })

  it('is the same every time', () => {
    const digests = () => [...toyFiles()].map(([name, bytes]) => [name, hash('sha256', bytes)])
    expect(digests()).toEqual(digests())
  })

  it('published has the hash of these weights, texts and tokenizer', async () => {
    const { manifest } = await openToyCheckpoint()
    expect([manifest.modelId, manifest.release]).toEqual(['deepseek-v4-toy', 'preview'])
    expect(manifest.checkpointHash).toBe(
      'e0c110439347adfc801ef06673e5436e01e0ecb61c64268f80ed0a5d2042488f',
    )
  })
})
