import type { Tensor } from '../../device/tensor.ts'
import { DeviceError } from '../../device/device.ts'
import { type StreamUpdate, streamShape } from '../numerics/streams.ts'
import type { ArgStruct } from './args.ts'

/** Numbers of `streams.h`. */
const streamsMax = 4
const columnsOfBlock = 256
const floatBytes = 4

/** Blocks that a row of streams is shared out over. */
export function columnBlocks(streams: Tensor): number {
  return Math.ceil(streamShape(streams).hidden / columnsOfBlock)
}

/** `Streams` of `streams.h`. */
export function streamsArg(struct: ArgStruct, tensor: Tensor): void {
  const { rows, streams, hidden } = streamShape(tensor)
  if (streams > streamsMax) {
    const message = `rows of ${streams} streams; its kernels hold ${streamsMax}`
    throw new DeviceError('unsupported_op', 'cuda', message)
  }
  struct.activation(tensor).i32(rows).i32(streams).i32(hidden).i32(0)
}

/** `StreamUpdate` of `streams.h`. */
export function updateArg(struct: ArgStruct, update: StreamUpdate | null): void {
  if (update === null) struct.pointer(0n).pointer(0n).pointer(0n)
  else struct.activation(update.output).tensor(update.post).tensor(update.mix)
}

/** Shared memory of a block that keeps its columns, and as the last one a whole row. */
export function streamSharedBytes(streams: Tensor): number {
  const { streams: count, hidden } = streamShape(streams)
  // Room for sums and logits before it.
  return floatBytes * (64 + Math.max(count * columnsOfBlock, hidden))
}
