import { packAttention } from '../attention/pack.ts'
import { packCompress } from '../compress/pack.ts'
import { packCopy } from '../copy/pack.ts'
import { packDraftInputs } from '../draft-inputs/pack.ts'
import { packDraftJoin } from '../draft-join/pack.ts'
import { packEmbed } from '../embed/pack.ts'
import { packExpertSum } from '../expert-sum/pack.ts'
import { packExperts } from '../experts/pack.ts'
import { packGather } from '../gather/pack.ts'
import { packGroupedLinear } from '../grouped-linear/pack.ts'
import { packHcHead } from '../hc-head/pack.ts'
import { packHcPost } from '../hc-post/pack.ts'
import { packHcPre } from '../hc-pre/pack.ts'
import { packIndexQuery } from '../index-query/pack.ts'
import { packIndexSelect } from '../index-select/pack.ts'
import { packLatentNorm } from '../latent-norm/pack.ts'
import { packLinear } from '../linear/pack.ts'
import { packQueryRotate } from '../query-rotate/pack.ts'
import type { OpTable } from '../registry.ts'
import { packRoute } from '../route/pack.ts'
import type { PackOp } from './words.ts'

/** How each op’s arguments become words; a missing one does not compile. */
export const packers: { readonly [Op in keyof OpTable]: PackOp<OpTable[Op]> } = {
  linear: packLinear,
  'grouped-linear': packGroupedLinear,
  experts: packExperts,
  'expert-sum': packExpertSum,
  'latent-norm': packLatentNorm,
  'query-rotate': packQueryRotate,
  'index-query': packIndexQuery,
  compress: packCompress,
  'index-select': packIndexSelect,
  attention: packAttention,
  copy: packCopy,
  embed: packEmbed,
  'hc-post': packHcPost,
  'hc-pre': packHcPre,
  'hc-head': packHcHead,
  route: packRoute,
  'draft-inputs': packDraftInputs,
  'draft-join': packDraftJoin,
  gather: packGather,
}
