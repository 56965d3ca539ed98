import { describe, expect, it } from 'vitest'
import { eachLimited } from './each-limited.ts'

const items = [1, 2, 3, 4, 5, 6]
const tick = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

describe('tasks under a limit', () => {
  it('run for every item, started in order, never more at a time', async () => {
    const started: number[] = []
    let running = 0
    let most = 0
    await eachLimited({ items, limit: 3 }, async (item) => {
      started.push(item)
      most = Math.max(most, ++running)
      await tick()
      running--
    })
    expect([started, most, running]).toEqual([items, 3, 0])
  })

  it('stop at the first failure, which is thrown once the others have stopped', async () => {
    const first = new Error('first')
    const log: string[] = []
    const run = eachLimited({ items, limit: 3 }, async (item, signal) => {
      log.push(`start ${item}`)
      await tick()
      if (item === 2) throw first
      await tick()
      log.push(`end ${item} ${signal.aborted}`)
      signal.throwIfAborted()
    })
    await expect(run).rejects.toBe(first)
    expect(log).toEqual(['start 1', 'start 2', 'start 3', 'end 1 true', 'end 3 true'])
  })

  it('are told when the caller gives up', async () => {
    const abort = new AbortController()
    const reason = new Error('enough')
    const run = eachLimited({ items, limit: 1, signal: abort.signal }, async (item, signal) => {
      if (item === 3) abort.abort(reason)
      signal.throwIfAborted()
    })
    await expect(run).rejects.toBe(reason)
  })

  it('of which there are none are done at once', async () => {
    await eachLimited({ items: [], limit: 4 }, () => Promise.reject(new Error('never')))
  })
})
