import { Hono } from 'hono'
import { ApiError } from '#protocol/errors.ts'
import type { ModelEntry, ModelList } from '#protocol/models.ts'
import type { AppContext, AppDeps, AppEnv } from '../context.ts'
import { overloaded, refuseMethod } from '../failures.ts'
import { requireScope } from '../middleware/authenticate.ts'
import { ModelLists } from '../upstream/model-lists.ts'

export function models(deps: AppDeps): Hono<AppEnv> {
  const routes = new Hono<AppEnv>()
  const lists = new ModelLists(deps)
  for (const path of ['/models', '/v1/models']) {
    routes.get(path, requireScope('models'), async (c) => {
      const data = await listModels(c, lists)
      if (data.length === 0) throw unavailable(deps)
      return c.json({ object: 'list', data } satisfies ModelList)
    })
    routes.get(`${path}/:id`, requireScope('models'), async (c) => {
      const id = c.req.param('id')
      const entry = (await listModels(c, lists)).find((model) => model.id === id)
      if (entry !== undefined) return c.json(entry)
      const configured = c.get('settings').pools.some((pool) => pool.models.includes(id))
      if (configured) throw unavailable(deps)
      throw new ApiError('not_found', 'This service has no such model.', { param: 'id' })
    })
    routes.all(path, refuseMethod('GET, HEAD'))
    routes.all(`${path}/:id`, refuseMethod('GET, HEAD'))
  }
  return routes
}

function listModels(c: AppContext, lists: ModelLists): Promise<ModelEntry[]> {
  return lists.list({
    settings: c.get('settings'),
    requestId: c.get('trace').requestId,
    caller: c.get('caller'),
    signal: c.req.raw.signal,
  })
}

/** A model we are meant to serve, of which no backend has told us anything yet. */
function unavailable(deps: AppDeps): ApiError {
  return overloaded('No backend answers for this model right now. Try again.', deps.random)
}
