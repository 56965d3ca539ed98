import type { LaunchTable } from '../../device/cuda/images.ts'
import { launchAttention } from '../attention/cuda.ts'
import { launchCompress } from '../compress/cuda.ts'
import { launchCopy } from '../copy/cuda.ts'
import { launchDraftInputs } from '../draft-inputs/cuda.ts'
import { launchDraftJoin } from '../draft-join/cuda.ts'
import { launchEmbed } from '../embed/cuda.ts'
import { launchExpertSum } from '../expert-sum/cuda.ts'
import { launchExperts } from '../experts/cuda.ts'
import { launchGather } from '../gather/cuda.ts'
import { launchGroupedLinear } from '../grouped-linear/cuda.ts'
import { launchHcHead } from '../hc-head/cuda.ts'
import { launchHcPost } from '../hc-post/cuda.ts'
import { launchHcPre } from '../hc-pre/cuda.ts'
import { launchIndexQuery } from '../index-query/cuda.ts'
import { launchIndexSelect } from '../index-select/cuda.ts'
import { launchLatentNorm } from '../latent-norm/cuda.ts'
import { launchLinear } from '../linear/cuda.ts'
import { launchQueryRotate } from '../query-rotate/cuda.ts'
import { launchRoute } from '../route/cuda.ts'

/** Each op's launches (`<op>/cuda.ts`). An op without a line is refused as `unsupported_op`. */
export const launchers: LaunchTable = {
  copy: launchCopy,
  embed: launchEmbed,
  'hc-pre': launchHcPre,
  'hc-post': launchHcPost,
  'hc-head': launchHcHead,
  linear: launchLinear,
  'grouped-linear': launchGroupedLinear,
  'latent-norm': launchLatentNorm,
  'query-rotate': launchQueryRotate,
  'index-query': launchIndexQuery,
  compress: launchCompress,
  'index-select': launchIndexSelect,
  attention: launchAttention,
  route: launchRoute,
  experts: launchExperts,
  'expert-sum': launchExpertSum,
  'draft-inputs': launchDraftInputs,
  'draft-join': launchDraftJoin,
  gather: launchGather,
}
