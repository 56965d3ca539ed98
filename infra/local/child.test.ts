import { expect, it } from 'vitest'
import { startNode } from './child.ts'

function start(script: string, onLine: (line: string) => void = () => undefined) {
  return startNode({ args: ['--eval', script], env: {}, cwd: import.meta.dirname, onLine })
}

it('hands over each printed line and says how the process ended', async () => {
  const lines: string[] = []
  const child = start('console.log("one"); console.error("two"); process.exitCode = 3', (line) =>
    lines.push(line),
  )
  expect(await child.exited).toBe('exit code 3')
  await expect.poll(() => lines.toSorted()).toEqual(['one', 'two'])
})

it('insists when the process ignores the request to stop', async () => {
  const started = Promise.withResolvers<void>()
  const child = start(
    'process.on("SIGTERM", () => {}); setInterval(() => {}, 1000); console.log("up")',
    () => started.resolve(),
  )
  await started.promise
  await child.stop(20)
  expect(await child.exited).toBe('signal SIGKILL')
})
