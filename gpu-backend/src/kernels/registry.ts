import type { AttentionArgs } from './attention/attention.ts'
import type { CompressArgs } from './compress/compress.ts'
import type { CopyArgs } from './copy/copy.ts'
import type { DraftInputsArgs } from './draft-inputs/draft-inputs.ts'
import type { DraftJoinArgs } from './draft-join/draft-join.ts'
import type { EmbedArgs } from './embed/embed.ts'
import type { ExpertSumArgs } from './expert-sum/expert-sum.ts'
import type { ExpertsArgs } from './experts/experts.ts'
import type { GatherArgs } from './gather/gather.ts'
import type { GroupedLinearArgs } from './grouped-linear/grouped-linear.ts'
import type { HcHeadArgs } from './hc-head/hc-head.ts'
import type { HcPostArgs } from './hc-post/hc-post.ts'
import type { HcPreArgs } from './hc-pre/hc-pre.ts'
import type { IndexQueryArgs } from './index-query/index-query.ts'
import type { IndexSelectArgs } from './index-select/index-select.ts'
import type { LatentNormArgs } from './latent-norm/latent-norm.ts'
import type { LinearArgs } from './linear/linear.ts'
import type { QueryRotateArgs } from './query-rotate/query-rotate.ts'
import type { RouteArgs } from './route/route.ts'

/** Every op of the model, once: what `Device.run` takes under which name. README.md has the maths. */
export interface OpTable {
  readonly copy: CopyArgs
  readonly embed: EmbedArgs
  readonly 'hc-pre': HcPreArgs
  readonly 'hc-post': HcPostArgs
  readonly 'hc-head': HcHeadArgs
  readonly linear: LinearArgs
  readonly 'grouped-linear': GroupedLinearArgs
  readonly 'latent-norm': LatentNormArgs
  readonly 'query-rotate': QueryRotateArgs
  readonly 'index-query': IndexQueryArgs
  readonly compress: CompressArgs
  readonly 'index-select': IndexSelectArgs
  readonly attention: AttentionArgs
  readonly route: RouteArgs
  readonly experts: ExpertsArgs
  readonly 'expert-sum': ExpertSumArgs
  readonly 'draft-inputs': DraftInputsArgs
  readonly 'draft-join': DraftJoinArgs
  readonly gather: GatherArgs
}

export type OpName = keyof OpTable
