import { strict as assert } from 'node:assert'
import type { CudaDevice } from '../src/device/cuda.ts'
import { DeviceError } from '../src/device/device.ts'
import { allCases, opNames } from '../src/kernels/testing/all-cases.ts'
import { ConformanceError, type OpCase, runCase } from '../src/kernels/testing/case.ts'
import { cudaNumerics } from '../src/kernels/testing/numerics.ts'
import type { OpResult, ProofOptions } from './stages.ts'
import type { Subject } from './subject.ts'

const failuresKept = 3

/** The op suite on one device: all cases, or in a toy run those without a released model's dimensions. */
export class OpSuite {
  readonly #device: CudaDevice
  readonly #options: ProofOptions

  constructor(subject: Subject, options: ProofOptions) {
    this.#device = subject.open()
    this.#options = options
  }

  /** Runs an op's cases, none of which is begun after `until`. */
  run(name: string, until: number): OpResult {
    const op = opNames.find((known) => known === name)
    assert(op !== undefined, `there is no op ${name}`)
    const { toy, fake } = this.#options
    const cases = allCases[op].filter(({ size }) => size === 'toy' || !(toy || fake))
    const failures: string[] = []
    let [passed, failed, refused, boundUsed, lost] = [0, 0, 0, 0, false]
    for (const opCase of cases) {
      if (lost || Date.now() > until) break
      const outcome = this.#runCase(opCase)
      if (typeof outcome === 'number') {
        boundUsed = Math.max(boundUsed, outcome)
        passed++
        continue
      }
      const code = outcome instanceof DeviceError ? outcome.code : null
      const what = code === null ? outcome.message : `${opCase.name}: ${outcome.message}`
      lost = code === 'device_failed'
      if (code === 'unsupported_op') refused++
      else failed++
      if (failures.length < failuresKept) failures.push(what)
    }
    const left = cases.length - passed - failed - refused
    return { op, passed, failed, refused, left, boundUsed, failures, lost }
  }

  /** The share of its bound that a case used, or what is wrong. */
  #runCase(opCase: OpCase): number | ConformanceError | DeviceError {
    const device = this.#device
    try {
      return runCase(opCase, { device, numerics: cudaNumerics, seed: this.#options.seed }).boundUsed
    } catch (error) {
      if (error instanceof ConformanceError || error instanceof DeviceError) return error
      throw error
    }
  }
}
