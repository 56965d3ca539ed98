import { describe, expect, it } from 'vitest'
import { parseModelConfig } from '#weights/layout/config.ts'
import { toyConfig } from '#weights/toy/config.ts'
import { loneLayerConfig } from '../src/model/testing/lone-layer.ts'
import { openFakeCuda } from '../src/device/cuda/testing/fake-device.ts'
import { type Step, timeKind, timeLayer } from './layer-times.ts'
import { openFake } from './subject.ts'

const probe = await openFakeCuda()
if ('reason' in probe) console.warn(`skipped: no CUDA kernels on the host, ${probe.reason}`)

/** Kernels thread by thread, on cores that others use too. */
const timeoutMs = 60_000

const steps: readonly Step[] = [
  { name: 'decode 2', sequences: 2, start: 31, count: 1, gate: 0.5 },
  { name: 'prefill 6', sequences: 1, start: 0, count: 6, gate: 0.25 },
]

describe.skipIf('reason' in probe)('times of a layer', () => {
  it.each(['swa', 'csa', 'hca'] as const)(
    '%s: a floor for each step, and the gate',
    async (kind) => {
      const fake = await openFakeCuda()
      if ('reason' in fake) throw new Error(fake.reason)
      const device = fake.open()
      const config = loneLayerConfig(parseModelConfig(toyConfig), { kind, expertCount: 8 })
      let runs = 0
      const measure = (work: () => void): readonly number[] => {
        const before = runs
        for (; runs < before + 3; runs++) work()
        // A clock that says each run takes longer than the one before.
        return [runs, before + 1, before + 2]
      }
      const [decode, prefill] = timeLayer(device, config, { kind, steps, measure })
      device.synchronise()
      // The first of each is recorded.
      expect(device.replays).toBe(runs - 2)
      expect([decode?.milliseconds, prefill?.milliseconds]).toEqual([2, 5])
      expect([decode?.bestMilliseconds, prefill?.bestMilliseconds]).toEqual([1, 4])
      // Weights alone are more than half a megabyte: some 0.1 µs at 4.3 TB/s.
      expect(decode?.floorMilliseconds).toBeGreaterThan(1e-4)
      expect(decode?.floorMilliseconds).toBeLessThan(1e-2)
      expect(decode?.ofFloor).toBe((decode?.floorMilliseconds ?? 0) / 2)
      expect(decode?.met).toBe(false)
      device.close()
    },
    timeoutMs,
  )

  it('are not asked of a fake driver', async () => {
    await expect(timeKind(await openFake(), 'swa', { toy: true })).rejects.toThrow(
      'a fake driver has no times',
    )
  })
})
