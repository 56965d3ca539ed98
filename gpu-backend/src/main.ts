import { ConfigError, parseConfig, type Config } from './config.ts'
import { createLog, errorFields } from './log.ts'
import { startBackend } from './server/start.ts'

/** For whoever started the process: lines on standard output, one JSON object each. */
function tell(event: 'listening' | 'ready', fields: Readonly<Record<string, string>>): void {
  process.stdout.write(`${JSON.stringify({ event, ...fields })}\n`)
}

/** Resolves with the first signal to stop. A second one gets Node's own answer: it ends at once. */
function signalled(): Promise<NodeJS.Signals> {
  return new Promise((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, resolve)
  })
}

/** Serves until told to stop (0) or until the engine cannot go on (1): a supervisor starts it anew. */
async function serve(config: Config): Promise<number> {
  const log = createLog({
    level: config.logLevel,
    write: (line) => process.stderr.write(line),
    now: Date.now,
  })
  const stop = signalled()
  const { env } = process
  const backend = await startBackend({ config, env, log, now: Date.now, random: Math.random })
  tell('listening', { url: backend.url })
  const failed = backend.ready
    .then(() => {
      tell('ready', { url: backend.url })
      return backend.engineEnded
    })
    .catch((error: unknown) => error)
  const end = await Promise.race([failed.then((error) => ({ error })), stop])
  if (typeof end === 'string') log.info('stopping', { signal: end })
  else log.error('engine_failed', errorFields(end.error))
  await backend.shutdown()
  return typeof end === 'string' ? 0 : 1
}

/** 2: a setting is at fault; 1: anything else. */
async function main(): Promise<number> {
  try {
    return await serve(await parseConfig(process.env))
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error)
    process.stderr.write(`gpu-backend: ${message}\n`)
    return error instanceof ConfigError ? 2 : 1
  }
}

process.exit(await main())
