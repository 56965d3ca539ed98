import { attentionReference } from './attention/reference.ts'
import { compressReference } from './compress/reference.ts'
import { copyReference } from './copy/reference.ts'
import { draftInputsReference } from './draft-inputs/reference.ts'
import { draftJoinReference } from './draft-join/reference.ts'
import { embedReference } from './embed/reference.ts'
import { expertSumReference } from './expert-sum/reference.ts'
import { expertsReference } from './experts/reference.ts'
import { gatherReference } from './gather/reference.ts'
import { groupedLinearReference } from './grouped-linear/reference.ts'
import { hcHeadReference } from './hc-head/reference.ts'
import { hcPostReference } from './hc-post/reference.ts'
import { hcPreReference } from './hc-pre/reference.ts'
import { indexQueryReference } from './index-query/reference.ts'
import { indexSelectReference } from './index-select/reference.ts'
import { latentNormReference } from './latent-norm/reference.ts'
import { linearReference } from './linear/reference.ts'
import { queryRotateReference } from './query-rotate/reference.ts'
import type { ReferenceKernel } from './reference-memory.ts'
import type { OpTable } from './registry.ts'
import { routeReference } from './route/reference.ts'

/** The definition of every op; a missing one does not compile. */
export const referenceKernels: { readonly [Op in keyof OpTable]: ReferenceKernel<OpTable[Op]> } = {
  copy: copyReference,
  embed: embedReference,
  'hc-pre': hcPreReference,
  'hc-post': hcPostReference,
  'hc-head': hcHeadReference,
  linear: linearReference,
  'grouped-linear': groupedLinearReference,
  'latent-norm': latentNormReference,
  'query-rotate': queryRotateReference,
  'index-query': indexQueryReference,
  compress: compressReference,
  'index-select': indexSelectReference,
  attention: attentionReference,
  route: routeReference,
  experts: expertsReference,
  'expert-sum': expertSumReference,
  'draft-inputs': draftInputsReference,
  'draft-join': draftJoinReference,
  gather: gatherReference,
}
