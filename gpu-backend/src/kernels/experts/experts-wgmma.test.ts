import { describe, expect, it } from 'vitest'
import { CudaDevice } from '../../device/cuda.ts'
import { openFakeCuda } from '../../device/cuda/testing/fake-device.ts'
import { runCase } from '../testing/case.ts'
import { wgmmaNumerics } from '../testing/numerics.ts'
import { expertsCases } from './cases.ts'

const probe = await openFakeCuda()
if ('reason' in probe) console.warn(`skipped: no CUDA kernels on the host, ${probe.reason}`)

/** Those with as many rows as `experts-wgmma.cu` wants, rounded to FP8. */
const cases = expertsCases.filter(({ name }) => /^rows=(65|70) .*quantise/.test(name))

describe.skipIf('reason' in probe)('experts by wgmma, through the driver', () => {
  it.each(cases)('$name', async (opCase) => {
    const fake = await openFakeCuda()
    if ('reason' in fake) throw new Error(fake.reason)
    const device = new CudaDevice(fake.driver, fake.images, { products: 'wgmma' })
    const before = fake.machine.report().kernels
    const { boundUsed } = runCase(opCase, { device, numerics: wgmmaNumerics, seed: 1 })
    // Twice: sorted; rounded and up, rounded and down; the shared expert's up and down; added up.
    expect(fake.machine.report().kernels - before).toBe(2 * 8)
    // Narrow sums show: against the bound of the twin they would not pass.
    expect(boundUsed).toBeGreaterThan(1e-3)
    device.close()
  })
})
