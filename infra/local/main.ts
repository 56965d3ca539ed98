import { resolve } from 'node:path'
import { Command, InvalidArgumentError } from 'commander'
import { probePort } from './ports.ts'
import { startStack } from './stack.ts'
import type { Stack } from './stack.ts'

function parsePort(text: string): number {
  const port = Number(text)
  if (!Number.isInteger(port) || port < 1 || port > 65_535) {
    throw new InvalidArgumentError('a port is a whole number from 1 to 65535.')
  }
  return port
}

const command = new Command('npm start --')
  .description('Runs all of Sluice on this machine: S3 store, toy checkpoint, engine, edge.')
  .option('--port <number>', 'port of the edge on loopback', parsePort, 8787)
  .option('--state <folder>', 'where keys, checkpoints and ledgers are kept', '.sluice')
  .option('--device <name>', 'compute device', process.env['SLUICE_DEVICE'] ?? 'auto')
  .parse()

const { port, state, device } = command.opts<{ port: number; state: string; device: string }>()

const INSIST_AFTER_MS = 1000

function say(line: string): void {
  process.stdout.write(`${line}\n`)
}

function printGuide(stack: Stack, seconds: number): void {
  const body = JSON.stringify({
    model: stack.model,
    messages: [{ role: 'user', content: 'Say something.' }],
    max_tokens: 64,
    stream: true,
  })
  say(`
Sluice is up after ${seconds.toFixed(1)} s. Ctrl-C stops all of it.

  API key    ${stack.apiKey}
  Base URL   ${stack.edgeUrl}/v1
  Device     ${stack.device}
  Model      ${stack.model}  (random weights in DeepSeek-V4's architecture: it streams, it does not make sense)

curl -N ${stack.edgeUrl}/v1/chat/completions \\
  -H 'Authorization: Bearer ${stack.apiKey}' \\
  -H 'Content-Type: application/json' \\
  -d '${body}'
`)
}

/**
 * Resolves with the first signal to stop. Ctrl-C comes twice under npm (from the terminal and from
 * npm itself), so a repetition only insists once it cannot be an echo.
 */
function takeSignals(): Promise<null> {
  return new Promise((stop) => {
    let firstAt: number | null = null
    const onSignal = (): void => {
      firstAt ??= performance.now()
      if (performance.now() - firstAt > INSIST_AFTER_MS) process.exit(130)
      stop(null)
    }
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      // Miniflare's own listeners end the process there and then, before the backend has pushed
      // its last usage records.
      process.removeAllListeners(signal)
      process.on(signal, onSignal)
    }
  })
}

async function main(): Promise<number> {
  const startedAt = performance.now()
  if ((await probePort(port)) === null) {
    process.stderr.write(
      `Port ${port} on 127.0.0.1 is taken. Stop what listens there, or choose another: ` +
        `npm start -- --port ${port + 1}\n`,
    )
    return 1
  }
  const stack = await startStack({
    stateDir: resolve(state),
    port,
    device,
    onLog: (part, line) => say(`[${part}] ${line}`),
    onProgress: (line) => say(`… ${line}`),
  })
  printGuide(stack, (performance.now() - startedAt) / 1000)
  const stopped = takeSignals()
  const ended = await Promise.race([stopped, stack.backend.exited])
  say(ended === null ? '\nStopping.' : `The backend ended by itself (${ended}); stopping.`)
  await stack.close()
  return ended === null ? 0 : 1
}

try {
  process.exitCode = await main()
} catch (error) {
  const reason = error instanceof Error ? error.message : String(error)
  process.stderr.write(`Could not start: ${reason}\n`)
  process.exitCode = 1
}
