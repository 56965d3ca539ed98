import type { LaunchTable } from '../../device/cuda/images.ts'

/** Each op's launches (`<op>/cuda.ts`). An op without a line is refused as `unsupported_op`. */
export const launchers: LaunchTable = {}
