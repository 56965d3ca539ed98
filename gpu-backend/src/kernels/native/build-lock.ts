import { open, readFile, rm, stat } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'

const pollMs = 100
/** Older locks belong to nobody any more, whatever process has their number by now. */
const abandonedMs = 10 * 60 * 1000

/**
 * Runs `work` while no other process holds the lock at `path`. Waits for whoever has it, unless that
 * process is gone. Only saves work done twice: what is guarded has to be safe without it.
 */
export async function holding<T>(path: string, work: () => Promise<T>): Promise<T> {
  while (!(await taken(path))) {
    if (await isAbandoned(path)) await rm(path, { force: true })
    else await sleep(pollMs)
  }
  try {
    return await work()
  } finally {
    await rm(path, { force: true })
  }
}

async function taken(path: string): Promise<boolean> {
  try {
    const file = await open(path, 'wx')
    await file.writeFile(String(process.pid))
    await file.close()
    return true
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST') return false
    throw error
  }
}

async function isAbandoned(path: string): Promise<boolean> {
  try {
    const { mtimeMs } = await stat(path)
    if (Date.now() - mtimeMs > abandonedMs) return true
    const owner = Number(await readFile(path, 'utf8'))
    // Between its creation and the number in it, a lock names nobody yet.
    return owner > 0 && !isAlive(owner)
  } catch {
    // Gone between two looks: not abandoned, given back.
    return false
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM'
  }
}
