import type { Handler } from 'hono'
import type { AppEnv } from './app.ts'
import type { Backend } from './backend.ts'
import { PROMETHEUS_TYPE } from './prometheus-text.ts'

/** `/metrics` as text. */
export function metricsPage(backend: Backend): string {
  const { engine, config, records, metrics } = backend.options
  const { status } = backend.readiness()
  return metrics.render({
    model: backend.model?.id ?? '',
    ready: status === 'ready',
    draining: status === 'draining',
    underWay: engine.underWay,
    cacheTokens: config.limits.cacheTokens,
    stats: engine.stats,
    pendingRecords: records.pendingCount,
  })
}

/** `GET /metrics`: open to whoever reaches the port, so it holds nothing of any tenant. */
export function showMetrics(backend: Backend): Handler<AppEnv> {
  return function showPage(c) {
    c.header('content-type', PROMETHEUS_TYPE)
    return c.body(metricsPage(backend))
  }
}
