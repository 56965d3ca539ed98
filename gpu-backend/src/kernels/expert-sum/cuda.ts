import type { LaunchOp } from '../../device/cuda/launch.ts'
import { DeviceError } from '../../device/device.ts'
import { ArgStruct, launch } from '../cuda/args.ts'
import type { ExpertSumArgs } from './expert-sum.ts'

/** Of `expert-sum.cu`. */
const gpusMax = 16
const threads = 256

export const launchExpertSum: LaunchOp<ExpertSumArgs> = (args, target) => {
  const { experts, results, output, expertsEach, firstRow } = args
  if (results.length > gpusMax) {
    const message = `expert-sum takes results of ${gpusMax} GPUs, not of ${results.length}`
    throw new DeviceError('unsupported_op', 'cuda', message)
  }
  const [rows = 0, picked = 0] = experts.shape
  const [, hidden = 0] = output.shape
  const struct = new ArgStruct('expert-sum', target).tensor(experts)
  for (const each of results) struct.tensor(each)
  struct
    .skip(8 * (gpusMax - results.length))
    .activation(output)
    .i32(expertsEach)
    .i32(firstRow)
    .i32(picked)
    .i32(hidden)
  const grid = [rows, Math.ceil(hidden / threads)] as const
  return [launch('expert_sum', { grid, threads }, struct)]
}
