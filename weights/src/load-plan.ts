import { byPlace, type TensorLocation } from './manifest.ts'

/** Bytes of one tensor that one read brings. */
export interface RangePart<T extends TensorLocation> {
  readonly tensor: T
  /** From the start of the tensor. */
  readonly tensorOffset: number
  /** From the start of the range. */
  readonly rangeOffset: number
  readonly length: number
}

/** One read of one file, and the tensors it fills. */
export interface ReadRange<T extends TensorLocation> {
  readonly file: string
  readonly offset: number
  readonly length: number
  readonly parts: readonly RangePart<T>[]
}

interface OpenRange<T extends TensorLocation> {
  file: string
  offset: number
  length: number
  parts: RangePart<T>[]
}

/**
 * The reads that bring the given tensors, each of at most `rangeBytes`: neighbours share a read,
 * a tensor that does not fit into what is left of one is split. Nothing but the tensors' own
 * bytes is read. Ranges come by file and offset.
 */
export function planReads<T extends TensorLocation>(
  tensors: Iterable<T>,
  rangeBytes: number,
): readonly ReadRange<T>[] {
  const ranges: OpenRange<T>[] = []
  let open: OpenRange<T> | null = null
  for (const tensor of [...tensors].sort(byPlace)) {
    let done = 0
    while (done < tensor.bytes) {
      const offset = tensor.offset + done
      const adjacent: boolean =
        open !== null &&
        open.file === tensor.file &&
        open.offset + open.length === offset &&
        open.length < rangeBytes
      if (open === null || !adjacent) {
        open = { file: tensor.file, offset, length: 0, parts: [] }
        ranges.push(open)
      }
      const length = Math.min(tensor.bytes - done, rangeBytes - open.length)
      open.parts.push({ tensor, tensorOffset: done, rangeOffset: open.length, length })
      open.length += length
      done += length
    }
  }
  return ranges
}
