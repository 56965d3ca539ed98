import { DeviceError } from '../src/device/device.ts'
import { allCases, opNames } from '../src/kernels/testing/all-cases.ts'
import { ConformanceError, runCase } from '../src/kernels/testing/case.ts'
import { cudaNumerics } from '../src/kernels/testing/numerics.ts'
import type { OpName } from '../src/kernels/registry.ts'
import type { Subject } from './subject.ts'

/** How an op's cases went. */
export interface OpResult {
  readonly op: OpName
  readonly passed: number
  readonly failed: number
  readonly refused: number
  /** The largest share of its bound that any value took. */
  readonly boundUsed: number
  /** The first failures, in words. */
  readonly failures: readonly string[]
}

const failuresKept = 3

/** The op suite: all cases, or with `toyOnly` those without a released model's dimensions. */
export function runOpSuite(
  subject: Subject,
  { toyOnly, seed }: { readonly toyOnly: boolean; readonly seed: number },
): readonly OpResult[] {
  const device = subject.open()
  const results = opNames.map((op): OpResult => {
    const failures: string[] = []
    let [passed, failed, refused, boundUsed] = [0, 0, 0, 0]
    for (const opCase of allCases[op]) {
      if (toyOnly && opCase.size !== 'toy') continue
      try {
        const result = runCase(opCase, { device, numerics: cudaNumerics, seed })
        boundUsed = Math.max(boundUsed, result.boundUsed)
        passed++
      } catch (error) {
        const known = error instanceof ConformanceError || error instanceof DeviceError
        // A lost GPU answers nothing more; whatever else is thrown is a mistake of ours.
        if (!known || (error instanceof DeviceError && error.code === 'device_failed')) throw error
        if (error instanceof DeviceError && error.code === 'unsupported_op') refused++
        else failed++
        if (failures.length < failuresKept) failures.push(error.message)
      }
    }
    return { op, passed, failed, refused, boundUsed, failures }
  })
  device.close()
  return results
}
