import { describe, expect, it } from 'vitest'
import { ADMIN_TOKEN, bearer, makeEdge } from './edge-app.ts'

async function makeTenant(): Promise<{
  tell: (method: string, path: string, body: object) => Promise<Response>
  balance: (path?: string) => Promise<unknown>
}> {
  const edge = await makeEdge()
  const tenantId = await edge.createTenant()
  const { key } = await edge.createKey(tenantId)
  return {
    tell: (method, path, body) =>
      edge.request(`/admin/tenants/${tenantId}${path}`, {
        method,
        body: JSON.stringify(body),
        headers: bearer(ADMIN_TOKEN),
      }),
    balance: async (path = '/user/balance') =>
      (await edge.request(path, { headers: bearer(key) })).json(),
  }
}

function answer(isAvailable: boolean, total: string): unknown {
  const amounts = {
    total_balance: total,
    granted_balance: '0.00',
    topped_up_balance: total,
  }
  return { is_available: isAvailable, balance_infos: [{ currency: 'USD', ...amounts }] }
}

describe('the balance', () => {
  it('is what was paid in, rounded down, at the root and under /v1', async () => {
    const { tell, balance } = await makeTenant()
    await tell('PUT', '/billing', { mode: 'prepaid' })
    expect(await balance()).toEqual(answer(false, '0.00'))
    await tell('POST', '/topups', { id: 'first', amount_usd: '12.349999' })
    expect(await balance()).toEqual(answer(true, '12.34'))
    expect(await balance('/v1/user/balance')).toEqual(answer(true, '12.34'))
  })

  it('of a tenant that pays later is available as far as its credit goes', async () => {
    const { balance } = await makeTenant()
    expect(await balance()).toEqual(answer(true, '0.00'))
  })
})
