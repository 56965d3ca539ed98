import type { LaunchOp } from '../../device/cuda/launch.ts'
import { tensorBytes } from '../../device/tensor.ts'
import { ArgStruct, launch } from '../cuda/args.ts'
import type { CopyArgs } from './copy.ts'

/** 16 bytes a thread, until there are four blocks for each multiprocessor. */
export const launchCopy: LaunchOp<CopyArgs> = ({ from, to }, target) => {
  const bytes = tensorBytes(from)
  const args = new ArgStruct('copy', target).tensor(from).tensor(to).i64(bytes)
  const blocks = Math.min(Math.ceil(bytes / (16 * 256)), 4 * target.gpu.multiprocessors)
  return [launch('copy_bytes', { grid: [blocks], threads: 256 }, args)]
}
