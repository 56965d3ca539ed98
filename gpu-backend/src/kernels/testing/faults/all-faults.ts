import { faultsAnywhere } from './anywhere.ts'
import { cacheFaults } from './cache.ts'
import type { Fault } from './faulty-device.ts'
import { matrixFaults } from './matrices.ts'
import { rowFaults } from './rows.ts'

/** Every mistake the harness is known to catch. */
export const allFaults: readonly Fault[] = [
  ...faultsAnywhere,
  ...rowFaults,
  ...matrixFaults,
  ...cacheFaults,
]
