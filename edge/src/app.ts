import { Hono } from 'hono'
import type { AppDeps, AppEnv } from './context.ts'
import { answerErrors, answerNotFound } from './failures.ts'
import { authenticate } from './middleware/authenticate.ts'
import { allowBrowsers } from './middleware/browsers.ts'
import { limitAddresses, limitKeys } from './middleware/flood-limits.ts'
import { traceRequests } from './middleware/trace-requests.ts'
import { loadSettings } from './middleware/settings.ts'
import { admin } from './routes/admin.ts'
import { balance } from './routes/balance.ts'
import { chatCompletions } from './routes/chat-completions.ts'
import { health } from './routes/health.ts'
import { limits } from './routes/limits.ts'
import { models } from './routes/models.ts'
import { poolReports } from './routes/pool-reports.ts'
import { requests } from './routes/requests.ts'
import { usageRecords } from './routes/usage-records.ts'
import { usage } from './routes/usage.ts'

/**
 * The edge's routes in the order a request meets them. What stands above `authenticate` needs no
 * API key: probes, the admin API (its own token) and the backends' records (signed). Below it a
 * request without a valid key is a 401 whatever its path.
 */
export function createApp(deps: AppDeps): Hono<AppEnv> {
  const app = new Hono<AppEnv>()
  app.onError(answerErrors(deps))
  app.notFound(answerNotFound)

  app.use(traceRequests(deps))
  app.use(allowBrowsers())
  app.use(loadSettings())
  app.route('/', health())
  app.route('/internal', poolReports(deps))
  app.route('/internal', usageRecords(deps))

  app.use(limitAddresses(deps))
  app.route('/admin', admin(deps))

  app.use(authenticate(deps))
  app.use(limitKeys(deps))
  app.route('/', chatCompletions(deps))
  app.route('/', models(deps))
  app.route('/', usage(deps))
  app.route('/', limits(deps))
  app.route('/', balance(deps))
  app.route('/', requests(deps))
  return app
}
