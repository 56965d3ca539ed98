import { runWeights } from './cli/run.ts'

const interrupted = new AbortController()
process.once('SIGINT', () => interrupted.abort())

process.exitCode = await runWeights(process.argv.slice(2), {
  env: process.env,
  stdout: process.stdout,
  stderr: process.stderr,
  signal: interrupted.signal,
})
