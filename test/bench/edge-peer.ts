import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { freePort } from '../../infra/local/ports.ts'

export interface Peer {
  readonly version: string
  readonly url: string
  /** What a request needs so that the peer passes it on to `backendUrl`. */
  readonly headers: Readonly<Record<string, string>>
  readonly pid: number
  close(): Promise<void>
}

const PACKAGE = '@portkey-ai/gateway'
const READY_POLL_MS = 50
const READY_TRIES = 200

export const HOW_TO_GET_THE_PEER =
  `no peer to compare with: npm install --prefix DIR ${PACKAGE}, ` +
  'then set PEER_GATEWAY_DIR=DIR for this bench'

/** Portkey's gateway, if it has been installed in the folder that `PEER_GATEWAY_DIR` names. */
export async function startPeer(backendUrl: string): Promise<Peer | null> {
  const dir = process.env['PEER_GATEWAY_DIR']
  if (dir === undefined || dir === '') return null
  const root = join(dir, 'node_modules', PACKAGE)
  const manifest = JSON.parse(await readFile(join(root, 'package.json'), 'utf8')) as {
    readonly version: string
  }
  const port = await freePort()
  const main = join(root, 'build/start-server.js')
  const child = spawn(process.execPath, [main, '--headless', `--port=${port}`], {
    env: { NODE_ENV: 'production' },
    stdio: 'ignore',
  })
  const ended = once(child, 'exit')
  const url = `http://127.0.0.1:${port}`
  await answers(url)
  return {
    version: manifest.version,
    url,
    headers: { 'x-portkey-provider': 'openai', 'x-portkey-custom-host': `${backendUrl}/v1` },
    pid: child.pid ?? 0,
    close: async () => {
      child.kill()
      await ended
    },
  }
}

async function answers(url: string): Promise<void> {
  for (let tries = 0; tries < READY_TRIES; tries += 1) {
    const response = await fetch(url).catch(() => null)
    await response?.body?.cancel()
    if (response !== null) return
    await sleep(READY_POLL_MS)
  }
  throw new Error(`the peer does not answer at ${url}`)
}
