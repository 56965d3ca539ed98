import { describe, expect, it } from 'vitest'
import { EventLog } from './event-log.ts'

describe('EventLog', () => {
  it('numbers events and gives those behind a number', () => {
    const log = new EventLog(1000)
    expect(log.last).toBe(0)
    expect(['a', 'b', 'c'].map((event) => log.append(event))).toEqual([
      'id: 1\na',
      'id: 2\nb',
      'id: 3\nc',
    ])
    expect(log.after(0)).toEqual(['id: 1\na', 'id: 2\nb', 'id: 3\nc'])
    expect(log.after(2)).toEqual(['id: 3\nc'])
    expect(log.after(3)).toEqual([])
    expect([log.last, log.units]).toEqual([3, 21])
  })

  it('knows what it has let go of and what is yet to come', () => {
    const log = new EventLog(100)
    for (let i = 0; i < 50; i += 1) log.append('x'.repeat(10))
    expect(log.last).toBe(50)
    expect(log.units).toBeLessThanOrEqual(100)
    expect(log.after(51)).toBe('ahead')
    expect(log.after(0)).toBe('dropped')
    const kept = log.after(46)
    expect(Array.isArray(kept) ? kept.map((event) => event.split('\n')[0]) : kept).toEqual([
      'id: 47',
      'id: 48',
      'id: 49',
      'id: 50',
    ])
  })

  it('keeps the newest even when it is larger than the bound', () => {
    const log = new EventLog(10)
    log.append('x'.repeat(5))
    log.append('y'.repeat(100))
    expect(log.after(1)).toEqual([`id: 2\n${'y'.repeat(100)}`])
    expect(log.after(0)).toBe('dropped')
  })
})
