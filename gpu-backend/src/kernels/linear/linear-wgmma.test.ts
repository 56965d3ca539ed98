import { describe, expect, it } from 'vitest'
import { CudaDevice } from '../../device/cuda.ts'
import { CudaError } from '../../device/cuda/errors.ts'
import { openFakeCuda } from '../../device/cuda/testing/fake-device.ts'
import { runCase } from '../testing/case.ts'
import { wgmmaNumerics } from '../testing/numerics.ts'
import { linearCases } from './cases.ts'

const probe = await openFakeCuda()
if ('reason' in probe) console.warn(`skipped: no CUDA kernels on the host, ${probe.reason}`)

/** Those of which `linear_wgmma` takes a part: many rows, rounded to FP8. */
const cases = linearCases.filter(({ name }) => /^rows=(66|130) .*f8e4m3.*quantise/.test(name))

describe.skipIf('reason' in probe)('linear by wgmma, through the driver', () => {
  it.each(cases)('$name', async (opCase) => {
    const fake = await openFakeCuda()
    if ('reason' in fake) throw new Error(fake.reason)
    const device = new CudaDevice(fake.driver, fake.images, { products: 'wgmma' })
    const before = fake.machine.report().kernels
    const { boundUsed } = runCase(opCase, { device, numerics: wgmmaNumerics, seed: 1 })
    // Twice: the input rounded, the FP8 part, and where there are other parts those by `mma`.
    const launches = opCase.name.includes('+') ? 3 : 2
    expect(fake.machine.report().kernels - before).toBe(2 * launches)
    // Narrow sums show: against the bound of the twin they would not pass.
    expect(boundUsed).toBeGreaterThan(1e-3)
    device.close()
  })

  it('is refused on a GPU of another architecture', async () => {
    const fake = await openFakeCuda({ architecture: 100 })
    if ('reason' in fake) throw new Error(fake.reason)
    const message = /is sm_100; products by wgmma are for sm_90$/
    const open = (): CudaDevice => new CudaDevice(fake.driver, fake.images, { products: 'wgmma' })
    expect(open).toThrow(CudaError)
    expect(open).toThrow(message)
  })
})
