import { describe, expect, it } from 'vitest'
import { RequestIds } from './request-ids.ts'

describe('RequestIds', () => {
  it('gives an id out once, running, finished or left over from before', () => {
    const ids = new RequestIds(['req_old'])
    expect(ids.claim('req_old')).toBe(false)
    expect(ids.claim('req_1')).toBe(true)
    expect(ids.claim('req_1')).toBe(false)
    ids.finish('req_1')
    expect(ids.claim('req_1')).toBe(false)
  })

  it('takes an id back that came to nothing', () => {
    const ids = new RequestIds()
    ids.claim('req_1')
    ids.release('req_1')
    expect(ids.claim('req_1')).toBe(true)
  })

  it('forgets the oldest finished ids, never a running one', () => {
    const ids = new RequestIds()
    ids.claim('req_running')
    for (let id = 0; id <= 65_536; id++) {
      ids.claim(`req_${id}`)
      ids.finish(`req_${id}`)
    }
    expect([ids.claim('req_0'), ids.claim('req_1'), ids.claim('req_running')]).toEqual([
      true,
      false,
      false,
    ])
  })
})
