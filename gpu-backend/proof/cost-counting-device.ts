import { type LinearWeight, tensorBytes } from '../src/device/tensor.ts'
import type { BatchRow } from '../src/kernels/batch.ts'
import { type Cost, opCost } from '../src/kernels/costs.ts'
import type { OpName, OpTable } from '../src/kernels/registry.ts'
import { PassingDevice } from '../src/kernels/testing/passing-device.ts'

/** A device that, while asked to, adds up what the ops it runs cannot do without. */
export class CostCountingDevice extends PassingDevice {
  #rows: readonly BatchRow[] | null = null
  #cost: Cost = { flops: 0, bytes: 0 }

  /** The cost of the ops that `work` runs on these rows. */
  count(rows: readonly BatchRow[], work: () => void): Cost {
    this.#rows = rows
    this.#cost = { flops: 0, bytes: 0 }
    work()
    this.#rows = null
    return this.#cost
  }

  override run<Op extends OpName>(op: Op, args: OpTable[Op]): void {
    this.inner.run(op, args)
    if (this.#rows === null) return
    const { flops, bytes } = opCost(op, args, { rows: this.#rows, ...this.#picked(args) })
    this.#cost = { flops: this.#cost.flops + flops, bytes: this.#cost.bytes + bytes }
  }

  prepare(weight: LinearWeight): boolean {
    return this.inner.prepare?.(weight) ?? false
  }

  /** How many experts some row was routed to: only their weights are read. */
  #picked(args: object): { readonly expertsPicked?: number } {
    if (!('routed' in args)) return {}
    const { experts } = args as OpTable['experts']
    const picks = new Int32Array(tensorBytes(experts) / Int32Array.BYTES_PER_ELEMENT)
    this.inner.read(experts.buffer, experts.byteOffset, new Uint8Array(picks.buffer))
    return { expertsPicked: new Set(picks).size }
  }
}
