import { describe, expect, it } from 'vitest'
import { proveModel } from '../../gpu-backend/proof/models.ts'
import { modelParts } from '../../gpu-backend/proof/stages.ts'
import { openFake, type Subject } from '../../gpu-backend/proof/subject.ts'

// Whole models on the CUDA device: what `npm run gpu:proof` claims on a GPU, here through the fake
// driver, which runs the same kernels on the host.

/** Twelve thousand kernels, thread by thread: half a minute on two free cores. */
const timeoutMs = 600_000

const subject = await openFake().catch((error: unknown): { readonly missing: string } => {
  return { missing: error instanceof Error ? error.message : String(error) }
})
if ('missing' in subject) console.warn(`skipped: no CUDA kernels on the host, ${subject.missing}`)

describe.skipIf('missing' in subject)('on the CUDA device under the fake driver', () => {
  const counts = { goldens: 3, 'invariance off': 6, 'invariance on': 6 } as const

  it.each(modelParts)(
    'every claim holds: %s',
    async (part) => {
      const claims = await proveModel(subject as Subject, part, { fake: true, toy: true })
      expect(claims.filter(({ held }) => !held)).toEqual([])
      expect(claims).toHaveLength(counts[part])
    },
    timeoutMs,
  )
})
