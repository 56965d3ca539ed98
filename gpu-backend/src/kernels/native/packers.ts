import { packLinear } from '../linear/pack.ts'
import type { OpTable } from '../registry.ts'
import type { PackOp } from './words.ts'

/** How each op's arguments become words. */
export const packers: { readonly [Op in keyof OpTable]?: PackOp<OpTable[Op]> } = {
  linear: packLinear,
}
