import { z } from 'zod'
import { startEdge } from '../../infra/local/edge.ts'

/**
 * The edge as a process of its own, so that a test can kill it and workerd with it:
 * `EDGE_OPTIONS='{"port":…,"stateDir":…,"vars":{…}}' node edge-process.ts`. Ready when `/health` is.
 */
const optionsSchema = z.object({
  port: z.int(),
  stateDir: z.string(),
  vars: z.record(z.string(), z.string()),
})

await startEdge(optionsSchema.parse(JSON.parse(process.env['EDGE_OPTIONS'] ?? '{}')))
