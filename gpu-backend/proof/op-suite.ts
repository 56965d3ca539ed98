import { strict as assert } from 'node:assert'
import type { CudaDevice } from '../src/device/cuda.ts'
import { DeviceError } from '../src/device/device.ts'
import { allCases, opNames } from '../src/kernels/testing/all-cases.ts'
import { ConformanceError, type OpCase, runCase } from '../src/kernels/testing/case.ts'
import type { OpName } from '../src/kernels/registry.ts'
import { cudaNumerics, wgmmaNumerics } from '../src/kernels/testing/numerics.ts'
import type { OpResult, ProofOptions } from './stages.ts'
import type { Subject } from './subject.ts'

const failuresKept = 3
/** Ops of which `wgmma` can do a part: on sm_90 their cases are run a second time by it. */
const wgmmaOps: readonly OpName[] = ['linear', 'experts']

/** The op suite on one device: all cases, or in a toy run those without a released model's dimensions. */
export class OpSuite {
  readonly #device: CudaDevice
  readonly #wgmma: CudaDevice | null
  readonly #options: ProofOptions

  constructor(subject: Subject, options: ProofOptions) {
    this.#device = subject.open()
    this.#wgmma = subject.gpu.architecture === 90 ? subject.open({ products: 'wgmma' }) : null
    this.#options = options
  }

  /** Runs an op's cases, none of which is begun after `until`. */
  run(name: string, until: number): OpResult {
    const op = opNames.find((known) => known === name)
    assert(op !== undefined, `there is no op ${name}`)
    const { toy, fake } = this.#options
    const chosen = allCases[op].filter(({ size }) => size === 'toy' || !(toy || fake))
    const devices = [this.#device, wgmmaOps.includes(op) ? this.#wgmma : null]
    const cases = devices.flatMap((device) =>
      device === null ? [] : chosen.map((opCase) => ({ opCase, device })),
    )
    const failures: string[] = []
    let [passed, failed, refused, boundUsed, lost] = [0, 0, 0, 0, false]
    for (const { opCase, device } of cases) {
      if (lost || Date.now() > until) break
      const outcome = this.#runCase(opCase, device)
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
  #runCase(opCase: OpCase, device: CudaDevice): number | ConformanceError | DeviceError {
    const numerics = device === this.#wgmma ? wgmmaNumerics : cudaNumerics
    try {
      return runCase(opCase, { device, numerics, seed: this.#options.seed }).boundUsed
    } catch (error) {
      if (error instanceof ConformanceError || error instanceof DeviceError) return error
      throw error
    }
  }
}
