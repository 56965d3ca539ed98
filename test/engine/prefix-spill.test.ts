import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { Engine } from '../../gpu-backend/src/engine/engine.ts'
import { PrefixSpill, SpillFolder } from '../../gpu-backend/src/engine/prefix-spill.ts'
import type { EngineEvent } from '../../gpu-backend/src/engine/protocol.ts'
import { seededRandom } from '../../gpu-backend/src/engine/random.ts'
import { Speculation } from '../../gpu-backend/src/engine/speculation.ts'
import { cpuDevice, referenceDevice } from '../support/model-devices.ts'
import { loadToyModel } from '../support/toy-model.ts'

const quick = cpuDevice({ numerics: 'exact', threads: 2 })
const on = quick.missing ? referenceDevice : quick
const cache = { sequencesMax: 2, tokensMax: 16 * 256, prefixesMax: 2 }

/** A page and some more of a text of its own. */
function promptOf(text: number): Int32Array {
  return Int32Array.from({ length: 280 }, (_, i) => (7 * i ** 2 + 3 * i + 5 + 13 * text) % 512)
}

interface Answer {
  readonly cachedTokens: number
  readonly tokens: readonly number[]
}

/** Answers one prompt after the other. */
interface Asked {
  ask(text: number, cacheSalt?: string): Answer
}

describe(`prefixes that had to leave the cache, on ${on.label}`, () => {
  let folder: string

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'spill-'))
  })
  afterEach(() => rmSync(folder, { recursive: true }))

  async function openEngine(bytesMax: number | null): Promise<Asked> {
    const { model } = await loadToyModel({ quantisation: 'on', mtp: true, cache }, on.open())
    const events: EngineEvent[] = []
    const engine = new Engine({
      model,
      limits: { runningMax: 2, waitingMax: 2, waitingTokensMax: 4096, stepTokensMax: 128 },
      speculation: new Speculation(model, 1),
      spill: bytesMax === null ? null : new PrefixSpill(model, new SpillFolder(folder, bytesMax)),
      random: seededRandom(1),
      now: () => 0,
      emit: (told) => events.push(...told),
    })
    let id = 0
    return {
      ask(text, cacheSalt = 'one') {
        id += 1
        engine.submit({
          id,
          prompt: promptOf(text),
          outputTokensMax: 12,
          sampling: { temperature: 1, topP: 0.9, seed: text },
          topLogprobs: null,
          priority: 0,
          deadlineMs: null,
          cacheSalt,
        })
        while (!engine.idle) engine.step()
        const own = events.splice(0)
        const started = own.find((event) => event.kind === 'started')
        return {
          cachedTokens: started?.cachedTokens ?? -1,
          tokens: own.flatMap((event) => (event.kind === 'token' ? [event.token] : [])),
        }
      },
    }
  }

  it('come back from the folder, and go on as if they had never left', async () => {
    const engine = await openEngine(2 ** 30)
    const first = [0, 1, 2, 3].map((text) => engine.ask(text))
    expect(first.map(({ cachedTokens }) => cachedTokens)).toEqual([0, 0, 0, 0])
    // Two of four are in the cache; the others make way for each other there.
    expect(readdirSync(folder)).toHaveLength(2)
    const again = [0, 1, 2, 3, 0].map((text) => engine.ask(text))
    expect(again.map(({ cachedTokens }) => cachedTokens)).toEqual([256, 256, 256, 256, 256])
    expect(again.map(({ tokens }) => tokens)).toEqual(
      [...first, ...first.slice(0, 1)].map(({ tokens }) => tokens),
    )
    expect(readdirSync(folder)).toHaveLength(2)
  })

  it('are computed again without a folder, and under another salt', async () => {
    const without = await openEngine(null)
    const first = [0, 1, 2].map((text) => without.ask(text))
    expect(without.ask(0)).toEqual(first[0])
    expect(readdirSync(folder)).toEqual([])
    const engine = await openEngine(2 ** 30)
    for (const text of [0, 1, 2]) engine.ask(text)
    expect(engine.ask(0, 'two')).toEqual(first[0])
    expect(engine.ask(0, 'one')).toEqual({ ...first[0], cachedTokens: 256 })
  })

  it('are computed again where the disk changed them', async () => {
    const engine = await openEngine(2 ** 30)
    const [first] = [0, 1, 2].map((text) => engine.ask(text))
    const [name = ''] = readdirSync(folder)
    const bytes = readFileSync(join(folder, name))
    bytes[bytes.length >> 1] = 1 + (bytes[bytes.length >> 1] ?? 0)
    writeFileSync(join(folder, name), bytes)
    expect(engine.ask(0)).toEqual(first)
    // Nothing of the attempt is left: the cache still keeps and finds.
    expect(engine.ask(0).cachedTokens).toBe(256)
  })
})
