import { expect } from 'vitest'
import { CpuDevice } from '../../../device/cpu.ts'
import type { Device } from '../../../device/device.ts'
import { ReferenceDevice } from '../../../device/reference.ts'
import { GuardedDevice } from '../../testing/guarded-device.ts'
import { Random } from '../../testing/random.ts'
import { TestTensors } from '../../testing/test-tensors.ts'
import type { Isa, NativeAddon } from '../addon.ts'

/** Builds inputs, runs one op and returns what it left: the same on every device it is given. */
export type OpRun = (on: TestTensors) => Readonly<Record<string, readonly number[]>>

export const testedIsas: readonly Isa[] = ['portable', 'avx2', 'avx512', 'best']

/** On a device with guard words round every buffer, checked after the op. */
export function runOn(device: Device, run: OpRun): ReturnType<OpRun> {
  return run(new TestTensors(new GuardedDevice(device)))
}

export function runReference(run: OpRun): ReturnType<OpRun> {
  return runOn(new ReferenceDevice(), run)
}

export interface NativeOptions {
  readonly isa?: Isa
  readonly threads?: number
}

export function runNative(
  addon: NativeAddon,
  run: OpRun,
  { isa = 'best', threads = 2 }: NativeOptions = {},
): ReturnType<OpRun> {
  const device = new CpuDevice(addon, { threads, isa })
  try {
    return runOn(device, run)
  } finally {
    device.close()
  }
}

/** Every instruction set leaves the reference's bits; `label` finds the case again. */
export function expectSameBits(addon: NativeAddon, run: OpRun, label: string): void {
  const expected = runReference(run)
  for (const isa of testedIsas) {
    const found = runNative(addon, run, { isa })
    for (const [name, values] of Object.entries(expected)) {
      const wrong = values.findIndex((value, i) => !Object.is(value, found[name]?.[i]))
      const where = `${label}, ${isa}: ${name}[${wrong}] is ${found[name]?.[wrong]}`
      expect(wrong, `${where}, not ${values[wrong]}`).toBe(-1)
    }
  }
}

/** Drawing takes longer than the ops that are run on them, on one device after the other. */
const drawn = new Map<string, Float32Array>()

/** Seeded values of very different sizes, zeros of both signs among them. */
export function mixedValues(seed: number, label: string, count: number): Float32Array {
  const key = `${seed} ${label} ${count}`
  const values = drawn.get(key) ?? drawMixed(new Random(seed, label), count)
  drawn.set(key, values)
  return values.slice()
}

function drawMixed(random: Random, count: number): Float32Array {
  return Float32Array.from({ length: count }, () => {
    const kind = random.below(40)
    if (kind < 2) return kind === 0 ? 0 : -0
    return random.normal() * 2 ** (kind === 2 ? -20 : kind === 3 ? 6 : 0)
  })
}
