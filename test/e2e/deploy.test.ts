import { spawn } from 'node:child_process'
import { readdir } from 'node:fs/promises'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { makeScratch } from '../support/scratch.ts'
import type { Scratch } from '../support/scratch.ts'

const ROOT = new URL('../..', import.meta.url).pathname

let scratch: Scratch

beforeAll(async () => {
  scratch = await makeScratch('deploy')
})

afterAll(() => scratch?.remove())

/** What `wrangler deploy` says, and its exit code, short of sending anything anywhere. */
async function dryRun(): Promise<{ readonly code: number | null; readonly said: string }> {
  const wrangler = `${ROOT}node_modules/wrangler/bin/wrangler.js`
  const args = [wrangler, 'deploy', '--dry-run', '--outdir', scratch.path]
  const env = {
    PATH: process.env['PATH'] ?? '',
    HOME: scratch.path,
    CI: 'true',
    WRANGLER_SEND_METRICS: 'false',
    WRANGLER_WRITE_LOGS: 'false',
  }
  const child = spawn(process.execPath, args, { cwd: ROOT, env, stdio: ['ignore', 'pipe', 'pipe'] })
  let said = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => (said += chunk.toString()))
  }
  const code = await new Promise<number | null>((resolve) => child.once('exit', resolve))
  return { code, said }
}

it('can be deployed as wrangler.toml says, with everything it is bound to', async () => {
  const { code, said } = await dryRun()
  expect(code, said).toBe(0)
  const bound = [...said.matchAll(/^env\.(\w+) /gm)].map(([, name]) => name)
  expect(bound).toEqual(['TENANT', 'DIRECTORY', 'POOL', 'FLOOD_BY_ADDRESS', 'FLOOD_BY_KEY'])
  expect(await readdir(scratch.path)).toContain('index.js')
})
