import type { ReadRange } from './load-plan.ts'
import type { TensorLocation } from './manifest.ts'

/** A tensor with all of its bytes, in an ArrayBuffer of its own. */
export interface WholeTensor<T extends TensorLocation> {
  readonly tensor: T
  readonly bytes: Uint8Array<ArrayBuffer>
}

/** Puts tensors together from the reads of a plan, in whatever order these arrive. */
export class TensorAssembler<T extends TensorLocation> {
  readonly #begun = new Map<string, { bytes: Uint8Array<ArrayBuffer>; missingBytes: number }>()

  /** Takes the bytes of one planned read; gives the tensors that became whole by it. */
  take(range: ReadRange<T>, read: Uint8Array): readonly WholeTensor<T>[] {
    const whole: WholeTensor<T>[] = []
    for (const { tensor, tensorOffset, rangeOffset, length } of range.parts) {
      const begun = this.#begun.get(tensor.name) ?? {
        bytes: new Uint8Array(tensor.bytes),
        missingBytes: tensor.bytes,
      }
      begun.bytes.set(read.subarray(rangeOffset, rangeOffset + length), tensorOffset)
      begun.missingBytes -= length
      if (begun.missingBytes > 0) {
        this.#begun.set(tensor.name, begun)
        continue
      }
      this.#begun.delete(tensor.name)
      whole.push({ tensor, bytes: begun.bytes })
    }
    return whole
  }
}
