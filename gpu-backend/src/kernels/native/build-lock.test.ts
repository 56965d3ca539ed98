import { mkdtemp, rm, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { holding } from './build-lock.ts'

let directory = ''
let lock = ''

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'sluice-lock-'))
  lock = join(directory, 'lock')
})

afterEach(() => rm(directory, { recursive: true }))

describe('the build lock', () => {
  it('lets one in at a time', async () => {
    let inside = 0
    let most = 0
    const visit = (): Promise<void> =>
      holding(lock, async () => {
        most = Math.max(most, ++inside)
        await sleep(5)
        inside--
      })
    await Promise.all(Array.from({ length: 4 }, visit))
    expect(most).toBe(1)
  })

  it('is given back by work that fails', async () => {
    await expect(holding(lock, () => Promise.reject(new Error('no')))).rejects.toThrow('no')
    expect(await holding(lock, () => Promise.resolve(7))).toBe(7)
  })

  it('is taken from a process that is gone', async () => {
    // Beyond the largest process number Linux gives out.
    await writeFile(lock, String(2 ** 22 + 1))
    expect(await holding(lock, () => Promise.resolve(7))).toBe(7)
  })

  it('is taken from anyone after ten minutes', async () => {
    await writeFile(lock, String(process.pid))
    const then = new Date(Date.now() - 11 * 60 * 1000)
    await utimes(lock, then, then)
    expect(await holding(lock, () => Promise.resolve(7))).toBe(7)
  })

  it('is waited for while its process lives', async () => {
    await writeFile(lock, String(process.pid))
    const waiting = holding(lock, () => Promise.resolve('mine'))
    expect(await Promise.race([waiting, sleep(150, 'still waiting')])).toBe('still waiting')
    await rm(lock)
    expect(await waiting).toBe('mine')
  })
})
