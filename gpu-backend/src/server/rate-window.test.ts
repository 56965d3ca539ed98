import { describe, expect, it } from 'vitest'
import { RateWindow } from './rate-window.ts'

describe('RateWindow', () => {
  it('knows no rate before a second look', () => {
    const window = new RateWindow(5000)
    expect(window.add(1000, { prompt: 500, generated: 100 })).toEqual({ prefill: 0, decode: 0 })
    expect(window.add(1000, { prompt: 600, generated: 100 })).toEqual({ prefill: 0, decode: 0 })
  })

  it('measures over the window alone, and falls to nothing when nothing is done', () => {
    const window = new RateWindow(5000)
    const rates = (second: number, generated: number) =>
      window.add(second * 1000, { prompt: generated * 10, generated })
    rates(0, 0)
    expect(rates(2, 100)).toEqual({ prefill: 500, decode: 50 })
    expect(rates(4, 200)).toEqual({ prefill: 500, decode: 50 })
    // Measured from second 2 on: the sample at the window's edge.
    expect(rates(7, 300)).toEqual({ prefill: 400, decode: 40 })
    expect(rates(12, 300)).toEqual({ prefill: 0, decode: 0 })
  })

  it('holds few samples however often it is asked', () => {
    const window = new RateWindow(100)
    for (let ms = 0; ms < 10_000; ms += 10) window.add(ms, { prompt: ms, generated: ms })
    expect(window.add(10_000, { prompt: 10_000, generated: 10_000 })).toEqual({
      prefill: 1000,
      decode: 1000,
    })
  })
})
