import { attentionCases } from '../attention/cases.ts'
import { compressCases } from '../compress/cases.ts'
import { copyCases } from '../copy/cases.ts'
import { draftInputsCases } from '../draft-inputs/cases.ts'
import { draftJoinCases } from '../draft-join/cases.ts'
import { embedCases } from '../embed/cases.ts'
import { expertSumCases } from '../expert-sum/cases.ts'
import { expertsCases } from '../experts/cases.ts'
import { gatherCases } from '../gather/cases.ts'
import { groupedLinearCases } from '../grouped-linear/cases.ts'
import { hcHeadCases } from '../hc-head/cases.ts'
import { hcPostCases } from '../hc-post/cases.ts'
import { hcPreCases } from '../hc-pre/cases.ts'
import { indexQueryCases } from '../index-query/cases.ts'
import { indexSelectCases } from '../index-select/cases.ts'
import { latentNormCases } from '../latent-norm/cases.ts'
import { linearCases } from '../linear/cases.ts'
import { queryRotateCases } from '../query-rotate/cases.ts'
import type { OpName } from '../registry.ts'
import { routeCases } from '../route/cases.ts'
import type { OpCase } from './case.ts'

/** Every op of the registry and the cases that prove it; a missing one does not compile. */
export const allCases: Readonly<Record<OpName, readonly OpCase[]>> = {
  copy: copyCases,
  embed: embedCases,
  'hc-pre': hcPreCases,
  'hc-post': hcPostCases,
  'hc-head': hcHeadCases,
  linear: linearCases,
  'grouped-linear': groupedLinearCases,
  'latent-norm': latentNormCases,
  'query-rotate': queryRotateCases,
  'index-query': indexQueryCases,
  compress: compressCases,
  'index-select': indexSelectCases,
  attention: attentionCases,
  route: routeCases,
  experts: expertsCases,
  'expert-sum': expertSumCases,
  'draft-inputs': draftInputsCases,
  'draft-join': draftJoinCases,
  gather: gatherCases,
}

export const opNames: readonly OpName[] = Object.values(allCases).flatMap((cases) => {
  const op = cases[0]?.op
  return op === undefined ? [] : [op]
})
