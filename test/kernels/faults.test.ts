import { describe, expect, it } from 'vitest'
import { ReferenceDevice } from '../../gpu-backend/src/device/reference.ts'
import { allCases, opNames } from '../../gpu-backend/src/kernels/testing/all-cases.ts'
import { ConformanceError, runCase } from '../../gpu-backend/src/kernels/testing/case.ts'
import { allFaults } from '../../gpu-backend/src/kernels/testing/faults/all-faults.ts'
import {
  type Fault,
  FaultyDevice,
} from '../../gpu-backend/src/kernels/testing/faults/faulty-device.ts'
import {
  doubleSums,
  narrowInputs,
  type Numerics,
} from '../../gpu-backend/src/kernels/testing/numerics.ts'

// The proof that the harness can fail: mistakes planted one at a time in a right device, each of
// which some case has to catch, with the tightest bounds and, unless it is smaller than those allow,
// with the widest.

const seed = Number(process.env['KERNEL_SEED'] ?? 1)

/** The first case that shows the fault. */
function catchFault(fault: Fault, numerics: Numerics): ConformanceError | null {
  const device = new FaultyDevice(new ReferenceDevice(), fault)
  for (const opCase of allCases[fault.op]) {
    if (opCase.size !== 'toy') continue
    try {
      runCase(opCase, { device, numerics, seed })
    } catch (error) {
      if (error instanceof ConformanceError) return error
      throw error
    }
  }
  return null
}

describe.each([
  { bounds: 'tight', numerics: doubleSums, faults: allFaults },
  { bounds: 'wide', numerics: narrowInputs, faults: allFaults.filter(({ fine }) => !fine) },
])('with $bounds bounds the harness catches', ({ numerics, faults }) => {
  it.each(faults)('$op that $name', (fault) => {
    const caught = catchFault(fault, numerics)
    expect(caught).toBeInstanceOf(ConformanceError)
    expect(caught?.op).toBe(fault.op)
    expect(caught?.message).toMatch(new RegExp(`^reference: ${fault.op}, .+, seed ${seed}: .+`))
  })
})

describe('the faults', () => {
  it('have different names, and every op has some of its own', () => {
    const names = allFaults.map(({ op, name }) => `${op} ${name}`)
    expect(new Set(names).size).toBe(names.length)
    expect(opNames.filter((op) => !allFaults.some((fault) => fault.op === op))).toEqual([])
  })

  it.each([
    { name: 'writes past the end', kind: 'guard' },
    { name: 'changes an input', kind: 'input_changed' },
    { name: 'writes nothing', kind: 'mismatch' },
    { name: 'gives other bits the next time', kind: 'unstable' },
  ])('are seen in the way that fits: $name', ({ name, kind }) => {
    const fault = allFaults.find((planted) => planted.op === 'latent-norm' && planted.name === name)
    expect(fault && catchFault(fault, doubleSums)?.kind).toBe(kind)
  })
})
