import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Device, DeviceError } from '../../gpu-backend/src/device/device.ts'
import { allCases, opNames } from '../../gpu-backend/src/kernels/testing/all-cases.ts'
import { type OpCase, runCase } from '../../gpu-backend/src/kernels/testing/case.ts'
import type { OpName } from '../../gpu-backend/src/kernels/registry.ts'
import { type DeviceUnderTest, devicesUnderTest } from './devices.ts'

// Each op of the registry, on each device that is here, on each of the op's cases. A case's name and
// the seed give it again: vitest -t '<device> <op> <case>'. KERNEL_SEED draws other values.

const seed = Number(process.env['KERNEL_SEED'] ?? 1)
/** Devices whose absence is a failure, by name, separated by commas. */
const required = (process.env['REQUIRE_DEVICE'] ?? '').split(',')

describe.each(devicesUnderTest)('$label', (subject) => {
  const { device, name } = subject
  if ('missing' in device) {
    it(`is here: ${device.missing}`, (context) => {
      if (required.includes(name)) expect.fail(`${name} is required: ${device.missing}`)
      console.warn(`skipped: ${subject.label}, ${device.missing}`)
      context.skip(device.missing)
    })
    return
  }
  suite(subject, device.open)
})

function suite({ name, numerics, toyOnly }: DeviceUnderTest, open: () => Promise<Device>): void {
  let opened: Device | null = null
  beforeAll(async () => {
    opened = await open()
  })
  afterAll(() => opened?.close())
  const device = (): Device => {
    if (opened === null) throw new Error('the device did not open')
    return opened
  }

  it('is the device under test, and the memory used is its own', () => {
    expect(device().name).toBe(name)
    const before = device().memory()
    const buffer = device().alloc(4096, 'probe')
    expect(device().memory().buffers).toBe(before.buffers + 1)
    device().free(buffer)
  })

  describe.each(opNames)('%s', (op) => {
    let used = 0
    let ran = 0
    const refused: string[] = []
    for (const opCase of casesOf(op, toyOnly)) {
      it(`${opCase.name}, seed ${seed}`, (context) => {
        if (opCase.compactRows === true && !device().formats.compactRows) {
          context.skip('the device keeps no compact rows')
        }
        try {
          const result = runCase(opCase, { device: device(), numerics, seed })
          used = Math.max(used, result.boundUsed)
          ran += result.opsRun
        } catch (error) {
          if (!(error instanceof DeviceError && error.code === 'unsupported_op')) throw error
          refused.push(error.message)
          context.skip(error.message)
        }
      })
    }

    it('is there for all of its cases, or not at all', (context) => {
      if (refused.length === 0) return
      const found = [...new Set(refused)].join('\n')
      if (ran > 0 || required.includes(name)) expect.fail(found)
      console.warn(`skipped: ${found}`)
      context.skip(found)
    })

    afterAll(() => {
      if (process.env['KERNEL_BOUNDS'] === undefined) return
      console.log(`${device().name} ${op}: at most ${used.toFixed(2)} of a bound used`)
    })
  })

  it('has nothing left in its memory', () => {
    expect(device().memory()).toMatchObject({ buffers: 0, allocatedBytes: 0 })
  })
}

function casesOf(op: OpName, toyOnly: boolean): readonly OpCase[] {
  return allCases[op].filter(({ size }) => size === 'toy' || !toyOnly)
}
