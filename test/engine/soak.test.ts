import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { describe, expect, it } from 'vitest'
import { seededRandom, type Random } from '../../gpu-backend/src/engine/random.ts'
import type { SchedulerLimits } from '../../gpu-backend/src/engine/scheduler.ts'
import { Speculation } from '../../gpu-backend/src/engine/speculation.ts'
import { FakeModel } from '../../gpu-backend/src/engine/testing/fake-model.ts'
import type { Device } from '../../gpu-backend/src/device/device.ts'
import { type Asked, EngineRun } from '../support/engine-run.ts'
import { cpuDevice, referenceDevice } from '../support/model-devices.ts'
import { loadToyModel } from '../support/toy-model.ts'

/** For a soak of this many seconds; without it, a short one of a set number of requests. */
const soakSeconds = Number(process.env['SLUICE_SOAK_SECONDS'] ?? 0)

interface Habits {
  /** Requests that are open at a time, about. */
  readonly open: number
  readonly ask: (id: number) => Asked
}

/** Requests that come, are given up, or run late, at random. */
class Crowd {
  readonly #run: EngineRun
  readonly #random: Random
  readonly #habits: Habits
  readonly #open = new Set<number>()
  asked = 0

  constructor(run: EngineRun, random: Random, habits: Habits) {
    this.#run = run
    this.#random = random
    this.#habits = habits
  }

  step(): void {
    const random = this.#random
    if (this.#open.size < this.#habits.open && random() < 0.7) this.#ask()
    if (random() < 0.1) {
      const [victim] = [...this.#open].slice(Math.floor(random() * this.#open.size))
      if (victim !== undefined) this.#run.cancel(victim)
    }
    this.#run.nowMs += 10 * random()
    this.#run.step()
    for (const id of this.#open) {
      if (this.#run.answer(id).ended === null) continue
      this.#open.delete(id)
      this.#run.forget(id)
    }
  }

  #ask(): void {
    const random = this.#random
    this.asked += 1
    this.#open.add(this.asked)
    this.#run.submit({
      priority: Math.floor(3 * random()) - 1,
      deadlineMs: random() < 0.1 ? this.#run.nowMs + 400 * random() : null,
      cacheSalt: random() < 0.9 ? `tenant ${Math.floor(4 * random())}` : null,
      ...this.#habits.ask(this.asked),
    })
  }
}

describe('ten thousand random requests', () => {
  it('leave every page and every place free', { timeout: 60_000 }, () => {
    const model = new FakeModel({ pagesMax: 48, sequencesMax: 12, prefixesMax: 10 })
    const limits = { runningMax: 12, waitingMax: 20, waitingTokensMax: 400, stepTokensMax: 48 }
    const random = seededRandom(1)
    const pick = (count: number): number => Math.floor(random() * count)
    const run = new EngineRun(model, limits)
    const crowd = new Crowd(run, random, {
      open: 30,
      ask: (id) => {
        // Three documents that are asked about again and again, at one point or another.
        const document = Array.from({ length: pick(40) }, (_, i) => 2 + ((i * (1 + (id % 3))) % 14))
        const prompt = Int32Array.from([...document, 2 + pick(14)])
        const sampling = { temperature: 1, topP: 1, seed: id }
        return { id, prompt, outputTokensMax: 1 + pick(24), sampling }
      },
    })
    while (crowd.asked < 10_000) crowd.step()
    run.drain()
    const { prefixHitsTotal, preemptionsTotal, ...stats } = run.stats
    expect(stats).toMatchObject({ running: 0, waiting: 0, cacheTokensFree: 192 })
    expect(prefixHitsTotal).toBeGreaterThan(500)
    expect(preemptionsTotal).toBeGreaterThan(500)
    // A text that fills the whole cache has everything else let go.
    run.submit({ id: 0, prompt: Int32Array.of(2), outputTokensMax: 192 })
    run.drain()
    expect(run.answer(0).ended).toBe('length')
    expect([model.sequences.size, model.prefixes.size, model.capacity().pagesFree]).toEqual([
      0, 0, 48,
    ])
  })
})

/** What the process and the device hold, after everything that can be let go has been. */
interface Held {
  readonly heapBytes: number
  readonly residentBytes: number
  readonly deviceBytes: number
  readonly deviceBuffers: number
}

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void

function held(device: Device): Held {
  collectGarbage()
  const { heapUsed, external, rss } = process.memoryUsage()
  const { allocatedBytes, buffers } = device.memory()
  return {
    heapBytes: heapUsed + external,
    residentBytes: rss,
    deviceBytes: allocatedBytes,
    deviceBuffers: buffers,
  }
}

const limits: SchedulerLimits = {
  runningMax: 16,
  waitingMax: 32,
  waitingTokensMax: 20_000,
  stepTokensMax: 128,
}

/** Short questions, questions about two documents, and now and then a long answer. */
function toyRequest(random: Random, id: number): Asked {
  const pick = (count: number): number => Math.floor(random() * count)
  const own = Array.from({ length: 1 + pick(40) }, () => 2 + pick(510))
  const kind = random()
  const document = kind < 0.3 ? 280 + 250 * pick(2) : 0
  const prompt = Int32Array.from([
    ...Array.from({ length: document }, (_, i) => (7 * i * i + 3 * i + 5 * document) % 512),
    ...own,
  ])
  const outputTokensMax = kind > 0.97 ? 280 : 1 + pick(24)
  const sampling = { temperature: pick(2), topP: 0.9, seed: null }
  return { id, prompt, outputTokensMax, sampling }
}

describe('a soak', () => {
  const cpu = cpuDevice({ numerics: 'exact' })
  const on = cpu.missing ? referenceDevice : cpu
  const samplesMax = 12
  /** Requests of the short soak; the reference device takes its time. */
  const requestsMax = on === cpu ? 200 : 24

  it('leaves memory flat', { timeout: 120_000 + 1000 * soakSeconds }, async () => {
    const device = on.open()
    const cache = { sequencesMax: limits.runningMax, tokensMax: 20 * 256, prefixesMax: 6 }
    const { model } = await loadToyModel({ quantisation: 'on', mtp: true, cache }, device)
    const run = new EngineRun(model, limits, new Speculation(model, 1))
    const random = seededRandom(2)
    const crowd = new Crowd(run, random, { open: 28, ask: (id) => toyRequest(random, id) })
    const startedAt = performance.now()
    const progress = (): number => {
      if (soakSeconds === 0) return crowd.asked / requestsMax
      return (performance.now() - startedAt) / (1000 * soakSeconds)
    }
    const samples: Held[] = []
    while (progress() < 1) {
      crowd.step()
      if (progress() * samplesMax >= samples.length + 1) samples.push(held(device))
    }
    run.drain()
    samples.push(held(device))
    if (soakSeconds > 0) report(samples, crowd.asked, run)

    const half = samples[samplesMax / 2]
    const last = samples.at(-1)
    if (half === undefined || last === undefined) throw new Error('a soak is sampled')
    // Pools and scratch have grown to what this crowd takes long before the half.
    expect([last.deviceBytes, last.deviceBuffers]).toEqual([half.deviceBytes, half.deviceBuffers])
    // The heap keeps names of pages seen, compiled code and the like: bytes a request at most.
    expect(last.heapBytes - half.heapBytes).toBeLessThan(4 * 2 ** 20)
    if (soakSeconds > 0) expect(last.residentBytes).toBeLessThan(1.1 * half.residentBytes)
    expect(run.stats).toMatchObject({ running: 0, waiting: 0, cacheTokensFree: 20 * 256 })
    model.close()
    expect(device.memory()).toMatchObject({ allocatedBytes: 0, buffers: 0 })
  })
})

function report(samples: readonly Held[], asked: number, run: EngineRun): void {
  const mib = (bytes: number): string => (bytes / 2 ** 20).toFixed(1)
  console.info(`${asked} requests in ${soakSeconds} s: ${JSON.stringify(run.stats)}`)
  for (const { heapBytes, residentBytes, deviceBytes } of samples) {
    const parts = [`heap ${mib(heapBytes)}`, `resident ${mib(residentBytes)}`]
    console.info([...parts, `device ${mib(deviceBytes)} MiB`].join(', '))
  }
}
